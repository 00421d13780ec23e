import {
  ActivityFailure,
  allHandlersFinished,
  ApplicationFailure,
  CancellationScope,
  condition,
  isCancellation,
  setCurrentDetails,
  setHandler,
  workflowInfo,
  type ActivityFunctionWithOptions,
  type ActivityOptions,
} from '@temporalio/workflow';
import type { Approval, DeployModelResult } from '../activities/deploy-model.ts';
import type { EvaluateModelResult } from '../activities/evaluate-model.ts';
import type { MergeAdapterResult } from '../activities/merge-adapter.ts';
import type { RunOutcome } from '../activities/record-run.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import { ApprovalDesk } from './approval.ts';
import { progressQuery, stageStartedSignal, stopTrainingUpdate } from './messages.ts';
import { ProgressBoard, type StageName } from './progress.ts';
import * as stages from './stages.ts';

export interface FineTuneInput {
  /** The name or path of a YAML below the configs folder, or the config itself. */
  config: string | Record<string, unknown>;
}

export interface FineTuneResult {
  outcome: RunOutcome;
  runName: string;
  runDirectory: string;
  /** Why it was not deployed, or rolled back. */
  why: string | null;
  /** Address of the served model's OpenAI-compatible API, and of its chat page. */
  apiUrl: string | null;
  pageUrl: string | null;
  evaluation: EvaluateModelResult['scores'] | null;
  /** Totals of the merge; `merged/merge.json` has them for each tensor. */
  merge: Pick<MergeAdapterResult, 'tensors' | 'merged' | 'bytes' | 'rounding'>;
}

/** Fine-tune a Qwen3-VL by a config and put it into service: check → validate → train → merge → fp16 → judge → deploy. */
export async function fineTune(input: FineTuneInput): Promise<FineTuneResult> {
  const { workflowId: runName } = workflowInfo();
  const board = new ProgressBoard(runName, (changed) => setCurrentDetails(changed.toMarkdown()));
  setHandler(progressQuery, () => board.toJSON());
  setHandler(stageStartedSignal, ({ stage, attempt }) => board.began(stage, attempt, now()));
  const stopTraining = async (request: { reason?: string }) =>
    (await stages.requestStop({ reason: request?.reason ?? '' })).headline;
  setHandler(stopTrainingUpdate, stopTraining, { validator: (_request) => requireTraining(board) });
  const desk = new ApprovalDesk();
  let undo = (): Promise<unknown> => Promise.resolve();

  try {
    requireInput(input);
    const loaded = await runStage(board, 'loadConfig', 'Read and check the config', stages.loadConfig, input);
    const { config, modelName } = loaded;
    const environment = await runStage(
      board,
      'checkEnvironment',
      'Check host, packages and base',
      stages.checkEnvironment,
      { config },
    );
    const dataset = await runStage(
      board,
      'validateDataset',
      `Check every row of ${String(config.train.dataset)}`,
      stages.validateDataset,
      { config },
    );
    const training = await runStage(
      board,
      'trainModel',
      `Train ${modelName} with LLaMA-Factory`,
      stages.trainModel,
      { config, environment, dataset },
      { scheduleToCloseTimeout: `${config.limits.trainingHours}h` },
    );
    const merge = await runStage(board, 'mergeAdapter', `Merge the adapter into ${modelName}`, stages.mergeAdapter, {
      config,
      environment,
      training,
    });
    const patch =
      environment.precision === 'fp16'
        ? await runStage(board, 'patchFp16', 'Prove the merged model in fp16', stages.patchFp16, { merge, dataset })
        : skip(board, 'patchFp16', `serves in ${environment.precision}`);
    const model = patch ?? merge;
    const served = { config, environment, model };
    undo = () => stages.discardCandidate({ ...served, rejected: null });
    const isJudged = config.evaluate.enabled && (dataset.heldOutRows > 0 || config.deploy.enabled);
    const evaluation = isJudged
      ? await runStage(board, 'evaluateModel', 'Judge the candidate on held-out rows', stages.evaluateModel, {
          ...served,
          dataset,
          baseDigest: training.baseDigest,
        })
      : skip(board, 'evaluateModel', config.evaluate.enabled ? 'no rows are held out' : 'evaluate.enabled is false');
    const admission = await admit(board, desk, config, evaluation);
    const digests = {
      config: loaded.configDigest,
      dataset: dataset.digest,
      base: training.baseDigest,
      adapter: training.adapterDigest,
    };
    const deployment = admission.admitted
      ? await runStage(board, 'deployModel', `Put into service as ${config.deploy.name}`, stages.deployModel, {
          ...served,
          digests,
          evaluation,
          approval: admission.approval,
        })
      : skip(board, 'deployModel', admission.why);
    if (!admission.admitted && admission.isRejection)
      await stages.discardCandidate({ ...served, rejected: { ...admission, evaluation } });

    const { tensors, merged, bytes, rounding } = merge;
    const outcome = outcomeOf(admission, deployment);
    await condition(allHandlersFinished);
    const { runDirectory } = await stages.recordRun({ outcome, progress: board.toJSON() });
    return {
      outcome,
      runName,
      runDirectory,
      why: admission.admitted ? (deployment?.why ?? null) : admission.why,
      apiUrl: deployment?.apiUrl ?? null,
      pageUrl: deployment?.pageUrl ?? null,
      evaluation: evaluation?.scores ?? null,
      merge: { tensors, merged, bytes, rounding },
    };
  } catch (error) {
    if (board.get('loadConfig').state === 'done') {
      const outcome: RunOutcome = isCancellation(error) ? 'cancelled' : 'failed';
      await CancellationScope.nonCancellable(async () => {
        await undo().catch(() => {});
        await stages.recordRun({ outcome, progress: board.toJSON() });
      }).catch(() => {});
    }
    throw error;
  }
}

type Admission =
  { admitted: true; approval: Approval | null } | { admitted: false; isRejection: boolean; why: string; by?: string };

/** Whether the model may replace what is in service: by its gates, and by a person where the config wants one. */
async function admit(
  board: ProgressBoard,
  desk: ApprovalDesk,
  { deploy }: ResolvedConfig,
  evaluation: EvaluateModelResult | null,
): Promise<Admission> {
  if (!deploy.enabled) return { admitted: false, isRejection: false, why: 'deploy.enabled is false' };
  if (evaluation?.verdict.passed === false)
    return { admitted: false, isRejection: true, why: evaluation.verdict.headline };
  if (deploy.approval === 'none') return { admitted: true, approval: null };
  const headline = `updates approve and reject are taken for ${deploy.approvalHours} h`;
  board.set('deployModel', { state: 'awaitingApproval', headline });
  const decision = await desk.wait(deploy.approvalHours);
  if (decision === undefined)
    return { admitted: false, isRejection: true, why: `nobody approved it within ${deploy.approvalHours} h` };
  const { approved, by, why } = decision;
  return approved ? { admitted: true, approval: { by, why } } : { admitted: false, isRejection: true, by, why };
}

function outcomeOf(admission: Admission, deployment: DeployModelResult | null): RunOutcome {
  if (deployment !== null) return deployment.outcome;
  return !admission.admitted && admission.isRejection ? 'rejected' : 'finished';
}

/** Run one stage's activity and keep the board true about it. */
async function runStage<I, O extends { headline: string; attempt?: number }>(
  board: ProgressBoard,
  stage: StageName,
  summary: string,
  activity: ActivityFunctionWithOptions<(input: I) => Promise<O>>,
  input: I,
  options: ActivityOptions = {},
): Promise<O> {
  board.set(stage, { state: 'scheduled', started: now() });
  try {
    const result = await activity.executeWithOptions({ ...options, summary }, [input]);
    board.set(stage, { state: 'done', finished: now(), attempt: result.attempt ?? 1, headline: result.headline });
    return result;
  } catch (error) {
    const state = isCancellation(error) ? 'cancelled' : 'failed';
    board.set(stage, { state, finished: now(), headline: reasonOf(error) });
    throw error;
  }
}

function skip(board: ProgressBoard, stage: StageName, why: string): null {
  board.set(stage, { state: 'skipped', headline: why });
  return null;
}

function requireInput(input: FineTuneInput | undefined): void {
  const config = input?.config;
  const usable = (typeof config === 'string' && config !== '') || (typeof config === 'object' && config !== null);
  const unknown = Object.keys(input ?? {}).filter((key) => key !== 'config');
  if (usable && unknown.length === 0) return;
  const wrong = unknown.length > 0 ? `the input has unknown keys: ${unknown.join(', ')}` : 'the input has no config';
  throw ApplicationFailure.nonRetryable(
    `fineTune takes one object, {"config": "<name or path of a YAML, or the config itself>"}; ${wrong}.`,
    'ConfigError',
  );
}

function requireTraining(board: ProgressBoard): void {
  const { state } = board.get('trainModel');
  if (state === 'running' || state === 'scheduled') return;
  throw ApplicationFailure.nonRetryable(`There is no training to stop: trainModel is ${state}.`, 'ConfigError');
}

function reasonOf(error: unknown): string {
  const cause = error instanceof ActivityFailure && error.cause !== undefined ? error.cause : error;
  return cause instanceof Error ? cause.message : String(cause);
}

function now(): string {
  return new Date().toISOString();
}

import {
  allHandlersFinished,
  ApplicationFailure,
  CancellationScope,
  condition,
  isCancellation,
  patched,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { Approval, DeployModelResult } from '../activities/deploy-model.ts';
import type { EvaluateModelResult } from '../activities/evaluate-model.ts';
import type { MergeAdapterResult } from '../activities/merge-adapter.ts';
import type { RunOutcome } from '../activities/record-run.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import { ApprovalDesk } from './approval.ts';
import { requireInput, type FineTuneInput } from './fine-tune-input.ts';
import { progressQuery, stageStartedSignal, stopTrainingUpdate } from './messages.ts';
import { Notices } from './notices.ts';
import { placeRun } from './placement.ts';
import { ProgressBoard } from './progress.ts';
import { now, reasonOf, StageRunner } from './stage-runner.ts';
import { trainTogether } from './train-together.ts';
import { Visibility } from './visibility.ts';

export type { FineTuneInput };

export interface FineTuneResult {
  outcome: RunOutcome;
  runName: string;
  runDirectory: string;
  /** Why it was not deployed, was rolled back, or had nothing to train. */
  why: string | null;
  /** Address of the served model's OpenAI-compatible API, and of its chat page. */
  apiUrl: string | null;
  pageUrl: string | null;
  evaluation: EvaluateModelResult['scores'] | null;
  /** Totals of the merge; `merged/merge.json` has them for each tensor. null when nothing was trained. */
  merge: Pick<MergeAdapterResult, 'tensors' | 'merged' | 'bytes' | 'rounding'> | null;
}

/** Fine-tune a Qwen3-VL by a config and put it into service: check → validate → train → merge → fp16 → judge → deploy. */
export async function fineTune(input: FineTuneInput): Promise<FineTuneResult> {
  const { workflowId: runName } = workflowInfo();
  const board = new ProgressBoard(runName, (changed) => setCurrentDetails(changed.toMarkdown()));
  setHandler(progressQuery, () => board.toJSON());
  setHandler(stageStartedSignal, ({ stage, attempt }) => board.began(stage, attempt, now()));
  const runner = new StageRunner(board);
  const stopTraining = async (request: { reason?: string }) =>
    (await runner.call('requestStop', { reason: request?.reason ?? '' })).headline;
  setHandler(stopTrainingUpdate, stopTraining, { validator: (_request) => requireTraining(board) });
  const desk = new ApprovalDesk();
  const notices = new Notices();
  let undo = (): Promise<unknown> => Promise.resolve();

  try {
    requireInput(input);
    const { host, onlyIfChanged, minNewRows = 1, continueFrom = 'base' } = input;
    const wanted = { config: input.config, ...(input.set && { set: input.set }) };
    if (patched('host-queues')) runner.settle(await placeRun({ runName, ...wanted, ...(host && { host }) }));
    const loaded = await runner.run('loadConfig', 'Read and check the config', wanted);
    const { config, modelName, configDigest } = loaded;
    board.link({ path: loaded.path ?? null, reportUrl: loaded.reportUrl ?? null });
    notices.loaded(loaded);
    if (config.limits.hostHours !== undefined) runner.allowAway(config.limits.hostHours);
    runner.visibility = new Visibility(loaded.isIndexed === true);
    runner.visibility.trains(modelName);
    const environment = await runner.run('checkEnvironment', 'Check host, packages and base', {
      config,
    });
    const dataset = await runner.run('validateDataset', `Check every row of ${String(config.train.dataset)}`, {
      config,
    });
    if (onlyIfChanged === true || input.minNewRows !== undefined) {
      const change = await runner.call('detectChange', { config, configDigest, dataset, minNewRows });
      if (!change.changed) return await endUnchanged(runner, notices, runName, change.headline);
    }
    const { plan } = await runner.run('planTraining', "Fit the training to this host's GPUs", {
      ...{ config, environment, dataset },
      ...(continueFrom === 'base' ? {} : { continueFrom }),
    });
    const training = await trainTogether(runner, { config, plan }, () =>
      runner.run(
        'trainModel',
        `Train ${modelName} with LLaMA-Factory`,
        { config, environment, dataset, plan },
        { scheduleToCloseTimeout: `${config.limits.trainingHours}h` },
      ),
    );
    const merge = await runner.run('mergeAdapter', `Merge the adapter into ${modelName}`, {
      config,
      environment,
      training,
    });
    const patch =
      environment.precision === 'fp16'
        ? await runner.run('patchFp16', 'Prove the merged model in fp16', { merge, dataset })
        : runner.skip('patchFp16', `serves in ${environment.precision}`);
    const model = patch ?? merge;
    const served = { config, environment, model };
    undo = () => runner.call('discardCandidate', { ...served, rejected: null });
    const isJudged = config.evaluate.enabled && (dataset.heldOutRows > 0 || config.deploy.enabled);
    const evaluation = isJudged
      ? await runner.run('evaluateModel', 'Judge the candidate on held-out rows', {
          ...served,
          dataset,
          baseDigest: training.baseDigest,
        })
      : runner.skip('evaluateModel', config.evaluate.enabled ? 'no rows are held out' : 'evaluate.enabled is false');
    if (evaluation !== null) {
      runner.visibility.scores(evaluation.scores.candidate.score);
      notices.evaluated(evaluation);
    }
    const ask = (approvalHours: number) => notices.tell('awaitingApproval', runner.hostName, { approvalHours });
    const admission = await admit(board, desk, config, evaluation, ask);
    const digests = {
      config: configDigest,
      dataset: dataset.digest,
      base: training.baseDigest,
      adapter: training.adapterDigest,
    };
    const deployment = admission.admitted
      ? await runner.run('deployModel', `Put into service as ${config.deploy.name}`, {
          ...served,
          digests,
          evaluation,
          approval: admission.approval,
        })
      : runner.skip('deployModel', admission.why);
    if (!admission.admitted && admission.isRejection)
      await runner.call('discardCandidate', { ...served, rejected: { ...admission, evaluation } });

    board.link({ apiUrl: deployment?.apiUrl ?? null, pageUrl: deployment?.pageUrl ?? null });
    const { tensors, merged, bytes, rounding } = merge;
    const outcome = outcomeOf(admission, deployment);
    await condition(allHandlersFinished);
    runner.visibility.ends(outcome);
    const { runDirectory } = await runner.call('recordRun', { outcome, progress: board.toJSON() });
    const why = admission.admitted ? (deployment?.why ?? null) : admission.why;
    const urls = { apiUrl: deployment?.apiUrl ?? null, pageUrl: deployment?.pageUrl ?? null };
    await notices.tell(outcome, runner.hostName, { why, ...urls });
    return {
      ...{ outcome, runName, runDirectory, why, ...urls },
      evaluation: evaluation?.scores ?? null,
      merge: { tensors, merged, bytes, rounding },
    };
  } catch (error) {
    const outcome: RunOutcome = isCancellation(error) ? 'cancelled' : 'failed';
    const isLoaded = board.get('loadConfig').state === 'done';
    if (isLoaded) {
      runner.visibility.ends(outcome);
      await CancellationScope.nonCancellable(async () => {
        await undo().catch(() => {});
        await runner.call('recordRun', { outcome, progress: board.toJSON() });
      }).catch(() => {});
    }
    const why = isCancellation(error) ? null : reasonOf(error);
    if (isLoaded || patched('notifications')) await notices.tell(outcome, runner.hostName, { why });
    throw error;
  }
}

/** The end of a run that found nothing new to train on. */
async function endUnchanged(
  runner: StageRunner,
  notices: Notices,
  runName: string,
  why: string,
): Promise<FineTuneResult> {
  runner.skipRest(why);
  runner.visibility.ends('unchanged');
  await condition(allHandlersFinished);
  const { runDirectory } = await runner.call('recordRun', { outcome: 'unchanged', progress: runner.board.toJSON() });
  await notices.tell('unchanged', runner.hostName, { why });
  return {
    ...{ outcome: 'unchanged', runName, runDirectory, why },
    ...{ apiUrl: null, pageUrl: null, evaluation: null, merge: null },
  };
}

type Admission =
  { admitted: true; approval: Approval | null } | { admitted: false; isRejection: boolean; why: string; by?: string };

/** Whether the model may replace what is in service: by its gates, and by a person where the config wants one. */
async function admit(
  board: ProgressBoard,
  desk: ApprovalDesk,
  { deploy }: ResolvedConfig,
  evaluation: EvaluateModelResult | null,
  ask: (approvalHours: number) => Promise<void>,
): Promise<Admission> {
  if (!deploy.enabled) return { admitted: false, isRejection: false, why: 'deploy.enabled is false' };
  if (evaluation?.verdict.passed === false)
    return { admitted: false, isRejection: true, why: evaluation.verdict.headline };
  if (deploy.approval === 'none') return { admitted: true, approval: null };
  const headline = `updates approve and reject are taken for ${deploy.approvalHours} h`;
  board.set('deployModel', { state: 'awaitingApproval', headline });
  // Whoever is told may be quick, and the hours count from now.
  void ask(deploy.approvalHours);
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

function requireTraining(board: ProgressBoard): void {
  const { state } = board.get('trainModel');
  if (state === 'running' || state === 'scheduled') return;
  throw ApplicationFailure.nonRetryable(`There is no training to stop: trainModel is ${state}.`, 'ConfigError');
}

import { availableParallelism, totalmem } from 'node:os';
import { join } from 'node:path';
import type { ResolvedConfig } from '../configs/schema.ts';
import { digestOfBase } from '../host/base-digest.ts';
import { checkout } from '../host/checkout.ts';
import { startAtChampion, type ContinuedFrom } from '../host/continued-adapter.ts';
import { TemperError } from '../host/errors.ts';
import type { Gpu } from '../host/gpus.ts';
import { readMeasurements } from '../host/planning/measurements.ts';
import { readModelShape, type ModelShape } from '../host/planning/model-shape.ts';
import { makePlanForHosts } from '../host/planning/plan-for-hosts.ts';
import { type PlanFacts, type TrainingPlan } from '../host/planning/plan.ts';
import { describePlan } from '../host/planning/plan-text.ts';
import { rowLengths, type RowLengths, type TokenFigures } from '../host/planning/row-lengths.ts';
import type { RunDirectory } from '../host/run-directory.ts';
import { oncePerInput } from '../host/stage-record.ts';
import { readJson, writeJson } from '../host/state-file.ts';
import type { TrainingHosts } from '../host/trainer-command.ts';
import { writeTrainingConfig, type TrainingOptions } from '../host/training-config.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { RunRecord } from './load-config.ts';
import type { StageContext, StageResult } from './stage.ts';
import type { ValidateDatasetResult } from './validate-dataset.ts';

export interface PlanTrainingInput {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  dataset: ValidateDatasetResult;
  /** `champion`: train on from the adapter of what the deployment serves, if there is one. */
  continueFrom?: 'base' | 'champion';
}

/** What the training needs of a plan. */
export interface PlannedTraining extends Pick<TrainingPlan, 'gpus' | 'gpuIndices' | 'globalBatch' | 'cut'> {
  /** LLaMA-Factory's options exactly as `train/config.yaml` has them. */
  training: TrainingOptions;
  /** The adapter that is trained on; null for a new one. */
  continuedFrom: ContinuedFrom | null;
  /** The hosts that train it, where there are several. */
  together?: TrainingHosts;
}

/** `plan` of `run.json`: the whole of it, with what it was made from. */
export interface PlanRecord extends TrainingPlan {
  training: TrainingOptions;
  continuedFrom: ContinuedFrom | null;
  shape: ModelShape;
  rows: RowLengths;
}

export interface PlanTrainingResult extends StageResult {
  plan: PlannedTraining;
}

/**
 * Fit the config's optimization to this host's GPUs and the rows' token counts; the plan goes into `run.json`, its options into
 * `train/config.yaml`. Made once for the same options, rows and GPUs, however much of their memory is free later.
 */
export async function planTraining(
  { config, environment, dataset, continueFrom = 'base' }: PlanTrainingInput,
  { run, settings, signal }: StageContext,
): Promise<PlanTrainingResult> {
  const together = hostsOf(config, settings.hostName);
  const { gpus, versions } = environment;
  const start =
    continueFrom === 'champion'
      ? await startAtChampion(run, config, {
          home: settings.home,
          baseDigest: await digestOfBase(String(environment.training.model_name_or_path), signal),
        })
      : undefined;
  const continuedFrom = start?.continuedFrom ?? null;
  const training: TrainingOptions =
    continuedFrom === null
      ? environment.training
      : { ...environment.training, adapter_name_or_path: continuedFrom.path };
  const inputs = {
    options: training,
    wishes: config.plan,
    hosts: together?.hosts.length ?? 1,
    dataset: dataset.digest,
    gpus: gpus.map(({ index, name, totalMemoryBytes }) => ({ index, name, totalMemoryBytes })),
    versions,
  };
  const made = await oncePerInput(
    { folder: run.stages, stage: 'planTraining', inputs, outputs: () => [] },
    async () => {
      const facts = await planFacts(config, { training, gpus, versions, home: settings.home, run });
      const plan = makePlanForHosts(facts, together?.hosts.length ?? 1);
      return { ...plan, training: { ...training, ...plan.options }, shape: facts.shape, rows: facts.rows };
    },
  );
  const plan: PlanRecord = { ...made, continuedFrom };
  await writeTrainingConfig(run, plan.training);
  const record = await readJson<RunRecord>(run.run);
  if (record !== undefined) await writeJson(run.run, { ...record, plan } satisfies RunRecord);
  const { gpus: count, gpuIndices, globalBatch, cut } = plan;
  return {
    plan: {
      ...{ gpus: count, gpuIndices, globalBatch, cut, training: plan.training, continuedFrom },
      ...(together && { together }),
    },
    headline: [
      describePlan(plan),
      ...(together === undefined ? [] : [`each of ${together.hosts.join(', ')}`]),
      ...(start === undefined ? [] : [start.why]),
    ].join('; '),
  };
}

/** The hosts that the config wants to train together; HostError when the run is not on the first of them. */
function hostsOf({ plan: { hosts, rendezvous } }: ResolvedConfig, here: string): TrainingHosts | undefined {
  if (hosts === undefined || rendezvous === undefined) return undefined;
  if (hosts[0] === here) return { hosts, rendezvous };
  throw new TemperError(
    'HostError',
    `The run is on host ${here}, and plan.hosts begins with ${hosts[0]}, which the others meet: start it there ("host": "${hosts[0]}"), or name ${here} first.`,
  );
}

/** What a plan is made from: the dataset's report in the run directory, the base's shape, this host's earlier trainings. */
export async function planFacts(
  config: ResolvedConfig,
  host: { training: TrainingOptions; gpus: Gpu[]; versions: Record<string, string>; home: string; run: RunDirectory },
): Promise<PlanFacts> {
  const { training, gpus, versions, home, run } = host;
  const report = await readJson<{ trainRows: number; tokens: TokenFigures | null }>(run.datasetReport);
  return {
    gpus,
    cpus: availableParallelism(),
    hostMemoryBytes: totalmem(),
    shape: await readModelShape(String(training.model_name_or_path)),
    options: training,
    wishes: config.plan,
    rows: rowLengths(report?.trainRows ?? 0, report?.tokens ?? null, Number(training.cutoff_len ?? 2048)),
    installed: {
      flashAttention: versions['flash-attn'] !== undefined,
      deepspeed: versions.deepspeed !== undefined,
      liger: versions['liger-kernel'] !== undefined,
    },
    measurements: await readMeasurements(home),
    deepspeedConfigs: join(checkout, 'configs/deepspeed'),
  };
}

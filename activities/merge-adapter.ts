import { join } from 'node:path';
import type { ResolvedConfig } from '../configs/schema.ts';
import { formatBytes } from '../host/disk.ts';
import { runPython } from '../host/python.ts';
import { oncePerInput } from '../host/stage-record.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { StageContext, StageResult } from './stage.ts';
import type { TrainModelResult } from './train-model.ts';

export interface MergeAdapterInput {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  training: TrainModelResult;
}

/** A Hugging Face model folder that can be served. */
export interface ServableModel {
  modelDir: string;
  /** Stands for its weights and files. */
  modelDigest: string;
}

export interface MergeAdapterResult extends StageResult, ServableModel {
  tensors: number;
  /** Tensors that the adapter changed. */
  merged: number;
  bytes: number;
  /** What rounding did, in values; `merged/merge.json` has it for each tensor. */
  rounding: Rounding;
}

export interface Rounding {
  overflow: number;
  /** Became zero. */
  underflow: number;
  subnormal: number;
  nonFinite: number;
  /** Differ from the base's own values in the target type; 0 means that the adapter is too small to count. */
  changed: number;
}

/** Merge the adapter into the base in one pass, rounded once to the type that is served, into `merged/`. */
export async function mergeAdapter(
  { config, environment, training }: MergeAdapterInput,
  context: StageContext,
): Promise<MergeAdapterResult> {
  const { run, runName, signal } = context;
  const base = String(config.train.model_name_or_path);
  const args = [
    ...(training.isWholeModel ? [training.adapter, 'none'] : [base, training.adapter]),
    ...[run.merged, '--dtype', environment.precision],
    ...(training.isWholeModel ? [] : ['--expect-base-digest', training.baseDigest]),
    ...['--owner', runName, ...(config.merge.clamp ? ['--clamp'] : [])],
  ];
  const inputs = {
    base: training.baseDigest,
    adapter: training.adapterDigest,
    precision: environment.precision,
    clamp: config.merge.clamp,
  };
  const outputs = () => [run.mergeAudit, join(run.merged, 'config.json')];
  return oncePerInput({ folder: run.stages, stage: 'mergeAdapter', inputs, outputs }, async () => {
    const done = await runPython<MergeLine>('trainer/merge_adapter.py', args, {
      cancelSignal: signal,
      onProgress: (progress) => context.report({ ...progress }),
    });
    const { tensors, merged, bytes, mergeDigest, overflow, underflow, subnormal, nonFinite, changed } = done;
    const lost =
      !training.isWholeModel && changed === 0 ? `; warning: not one value changed in ${environment.precision}` : '';
    const headline = `${merged} of ${tensors} tensors merged to ${environment.precision}, ${formatBytes(bytes)}, ${overflow + nonFinite} overflowed${lost}`;
    const rounding = { overflow, underflow, subnormal, nonFinite, changed };
    return { modelDir: run.merged, modelDigest: mergeDigest, tensors, merged, bytes, rounding, headline };
  });
}

type MergeLine = Rounding & Pick<MergeAdapterResult, 'tensors' | 'merged' | 'bytes'> & { mergeDigest: string };

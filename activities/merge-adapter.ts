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
  overflow: number;
  underflow: number;
  nonFinite: number;
  bytes: number;
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
    const { tensors, merged, overflow, underflow, nonFinite, bytes, mergeDigest } = done;
    const headline = `${merged} of ${tensors} tensors merged to ${environment.precision}, ${formatBytes(bytes)}, ${overflow + nonFinite} overflowed`;
    return {
      modelDir: run.merged,
      modelDigest: mergeDigest,
      tensors,
      merged,
      overflow,
      underflow,
      nonFinite,
      bytes,
      headline,
    };
  });
}

type MergeLine = Omit<MergeAdapterResult, 'headline' | 'modelDir' | 'modelDigest'> & { mergeDigest: string };

import { join } from 'node:path';
import { runPython } from '../host/python.ts';
import { oncePerInput } from '../host/stage-record.ts';
import type { ServableModel } from './merge-adapter.ts';
import type { StageContext, StageResult } from './stage.ts';
import type { ValidateDatasetResult } from './validate-dataset.ts';

export interface PatchFp16Input {
  merge: ServableModel;
  dataset: ValidateDatasetResult;
}

export interface PatchFp16Result extends StageResult, ServableModel {
  tensors: number;
  converted: number;
  /** Held-out rows that were run through the model in fp16 and fp32 and answered alike. */
  gateRows: number;
}

const GATE_ROWS = 8;

/**
 * Prove the merged folder in fp16: every tensor's type, config.json at every level, and a few held-out rows forward in
 * fp16 against fp32. Anything not finite, or another answer, fails the run by the layer's or row's name.
 */
export async function patchFp16({ merge, dataset }: PatchFp16Input, context: StageContext): Promise<PatchFp16Result> {
  const { run, signal } = context;
  const gate = dataset.heldOutRows > 0 ? ['--rows', run.heldOut, '--max-rows', String(GATE_ROWS)] : [];
  const outputs = () => [join(merge.modelDir, 'fp16.json'), join(merge.modelDir, 'config.json')];
  const inputs = { model: merge.modelDigest, dataset: dataset.digest };
  return oncePerInput({ folder: run.stages, stage: 'patchFp16', inputs, outputs }, async () => {
    const done = await runPython<{ tensors: number; converted: number; gate?: { rows: number } }>(
      'trainer/patch_fp16.py',
      [merge.modelDir, '--in-place', ...gate],
      { cancelSignal: signal, onProgress: (progress) => context.report({ ...progress }) },
    );
    const gateRows = done.gate?.rows ?? 0;
    const headline = `${done.tensors} tensors in fp16, ${done.converted} converted, ${gateRows} rows answered as in fp32`;
    return {
      modelDir: merge.modelDir,
      modelDigest: merge.modelDigest,
      tensors: done.tensors,
      converted: done.converted,
      gateRows,
      headline,
    };
  });
}

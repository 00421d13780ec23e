import { readFile } from 'node:fs/promises';
import { parse } from 'yaml';
import { smallerCut, type BatchCut } from './batch-cut.ts';
import type { RunDirectory } from './run-directory.ts';
import { writeTrainingConfig, type TrainingOptions } from './training-config.ts';

/** How a training that ran out of memory goes on. */
export interface Rung {
  cut: BatchCut;
  /** For people. */
  how: string;
}

/**
 * The next thing to try after a training ran out of memory, with the same global batch: gradient checkpointing, where the
 * plan had left it out, since it takes a third more time and halving the rows takes as much; then half the rows at once.
 * Changes `train/config.yaml` for the former. Undefined when a single row is too much.
 */
export async function nextRung(
  run: RunDirectory,
  cut: BatchCut,
  configured: TrainingOptions,
  planned: TrainingOptions,
): Promise<Rung | undefined> {
  const mayCheckpoint = configured.disable_gradient_checkpointing === undefined;
  if (mayCheckpoint && planned.disable_gradient_checkpointing === true && !(await isCheckpointing(run))) {
    await writeTrainingConfig(run, { ...planned, disable_gradient_checkpointing: false });
    return { cut, how: `${cut.microBatch} rows at once don't fit; going on with gradient checkpointing` };
  }
  const smaller = smallerCut(cut);
  if (smaller === undefined) return undefined;
  const { microBatch, accumulation } = smaller;
  return {
    cut: smaller,
    how: `${cut.microBatch} rows at once don't fit; going on with ${microBatch} × ${accumulation}`,
  };
}

/** Whether the training's YAML has gradient checkpointing on, as it is unless it says otherwise. */
export async function isCheckpointing(run: RunDirectory): Promise<boolean> {
  const text = await readFile(run.trainConfig, 'utf8').catch(() => '');
  const options = parse(text, { version: '1.1' }) as TrainingOptions | null;
  return options?.disable_gradient_checkpointing !== true;
}

import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { digestOfValue } from './digest.ts';
import { readJson, writeJson } from './state-file.ts';

/** What a stage went from and came to; kept in `stages/<stage>.json` of the run directory. */
export interface StageRecord<T> {
  stage: string;
  /** sha256 of everything that decides the result. */
  inputDigest: string;
  result: T;
  /** The files that make the result good, with their size in bytes and time of change in milliseconds. */
  outputs: Record<string, { sizeBytes: number; mtimeMs: number }>;
  startedAt: string;
  finishedAt: string;
}

export interface StageOptions<T> {
  /** Folder of the records. */
  folder: string;
  stage: string;
  /** Everything that decides the result; its digest is compared. */
  inputs: unknown;
  /** Files that must still be as the stage left them for its record to hold. */
  outputs: (result: T) => string[];
  /** Asked after the files: whether what the record says still holds. */
  stillHolds?: (result: T) => boolean | Promise<boolean>;
}

/** The recorded result when the inputs are the same and the outputs untouched, else what `work` returns, recorded. */
export async function oncePerInput<T>(options: StageOptions<T>, work: () => Promise<T>): Promise<T> {
  const path = join(options.folder, `${options.stage}.json`);
  const inputDigest = digestOfValue(options.inputs);
  const recorded = await readJson<StageRecord<T>>(path);
  if (recorded?.inputDigest === inputDigest && (await holds(recorded, options))) return recorded.result;

  await rm(path, { force: true }); // the work may leave outputs half changed, and then an older record must not hold
  const startedAt = new Date().toISOString();
  const result = await work();
  const outputs: StageRecord<T>['outputs'] = {};
  for (const file of options.outputs(result)) outputs[file] = await describe(file);
  const finishedAt = new Date().toISOString();
  const record: StageRecord<T> = { stage: options.stage, inputDigest, result, outputs, startedAt, finishedAt };
  await writeJson(path, record);
  return result;
}

async function holds<T>(record: StageRecord<T>, options: StageOptions<T>): Promise<boolean> {
  for (const [file, expected] of Object.entries(record.outputs)) {
    const found = await describe(file).catch(() => undefined);
    if (found?.sizeBytes !== expected.sizeBytes || found.mtimeMs !== expected.mtimeMs) return false;
  }
  return (await options.stillHolds?.(record.result)) ?? true;
}

async function describe(file: string): Promise<{ sizeBytes: number; mtimeMs: number }> {
  const { size, mtimeMs } = await stat(file);
  return { sizeBytes: size, mtimeMs };
}

import { mkdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { TemperError } from './errors.ts';

/** Where everything of one run lies; the only place that knows the names below `$TEMPER_HOME/runs/<run name>/`. */
export interface RunDirectory {
  readonly path: string;
  readonly run: string;
  readonly environment: string;
  readonly stages: string;
  readonly stageAttempts: string;
  readonly baseOverlay: string;
  readonly dataset: string;
  readonly datasetReport: string;
  readonly heldOut: string;
  readonly train: string;
  readonly trainConfig: string;
  readonly trainOutput: string;
  readonly trainByHand: string;
  readonly continuedFrom: string;
  readonly trainerLog: string;
  readonly process: string;
  readonly exit: string;
  readonly trainers: string;
  readonly events: string;
  readonly stopRequest: string;
  readonly attempts: string;
  readonly merged: string;
  readonly mergeAudit: string;
  readonly evaluation: string;
  readonly deployment: string;
  readonly notifications: string;
  readonly manifest: string;
  readonly report: string;
}

/** The run's directory, made if it is missing; throws ConfigError for a name that can't be a folder's. */
export function openRunDirectory(home: string, runName: string): RunDirectory {
  const directory = runDirectory(home, runName);
  mkdirSync(directory.stages, { recursive: true });
  return directory;
}

/** The names of all runs that have a directory in this home, sorted. */
export async function runsIn(home: string): Promise<string[]> {
  const entries = await readdir(join(home, 'runs'), { withFileTypes: true }).catch(() => []);
  return entries.flatMap((entry) => (entry.isDirectory() ? [entry.name] : [])).sort();
}

/** The names of the run's directory, whether or not it is there. */
export function runDirectory(home: string, runName: string): RunDirectory {
  requireRunName(runName);
  const path = join(home, 'runs', runName);
  const train = join(path, 'train');
  const dataset = join(path, 'dataset');
  const merged = join(path, 'merged');
  return {
    path,
    run: join(path, 'run.json'),
    environment: join(path, 'environment.json'),
    stages: join(path, 'stages'),
    stageAttempts: join(path, 'stage-attempts.jsonl'),
    baseOverlay: join(path, 'base-fp16'),
    dataset,
    datasetReport: join(dataset, 'report.json'),
    heldOut: join(dataset, 'held_out.jsonl'),
    train,
    trainConfig: join(train, 'config.yaml'),
    trainOutput: join(train, 'output'),
    trainByHand: join(train, 'by-hand'),
    continuedFrom: join(train, 'continued-from'),
    trainerLog: join(train, 'trainer.log'),
    process: join(train, 'process.json'),
    exit: join(train, 'exit.json'),
    trainers: join(train, 'trainers.jsonl'),
    events: join(train, 'events.jsonl'),
    stopRequest: join(train, 'stop-request.json'),
    attempts: join(train, 'attempts.json'),
    merged,
    mergeAudit: join(merged, 'merge.json'),
    evaluation: join(path, 'evaluation.json'),
    deployment: join(path, 'deployment.json'),
    notifications: join(path, 'notifications.jsonl'),
    manifest: join(path, 'manifest.json'),
    report: join(path, 'report.html'),
  };
}

/**
 * The run's directory as the other hosts of a training see it: what a host's part of the trainer writes for itself lies in
 * `train/node-<rank>/`, all else is shared.
 */
export function nodeDirectory(run: RunDirectory, rank: number): RunDirectory {
  const train = join(run.train, `node-${rank}`);
  return {
    ...run,
    train,
    trainerLog: join(train, 'trainer.log'),
    process: join(train, 'process.json'),
    exit: join(train, 'exit.json'),
    trainers: join(train, 'trainers.jsonl'),
    events: join(train, 'events.jsonl'),
  };
}

/** A run name is a Workflow ID that is also a safe folder name: letters, digits and ._:@+- (schedules add a time with colons). */
function requireRunName(runName: string): void {
  if (/^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,199}$/.test(runName)) return;
  throw new TemperError(
    'ConfigError',
    `The Workflow ID ${JSON.stringify(runName)} can't name a run's folder: use 1 to 200 letters, digits and . _ : @ + -, beginning with a letter or digit.`,
  );
}

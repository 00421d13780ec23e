import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { checkout, trainerPython } from './checkout.ts';
import { TemperError } from './errors.ts';
import { identify, isAlive, signal, stopTree, type ProcessIdentity } from './process-table.ts';
import type { RunDirectory } from './run-directory.ts';
import { readJson } from './state-file.ts';
import { longRunningPython, startDetached } from './subprocess.ts';

/** `train/process.json`, as `trainer/keeper.py` writes it. */
export interface TrainerProcess extends ProcessIdentity {
  argv: string[];
  attempt: number;
  owner: string;
  keeper: { pid: number; startTime: number };
  startedAt: string;
}

/** `train/exit.json`: how the trainer that `process.json` names ended. */
export interface TrainerExit {
  pid: number;
  startTime: number;
  exitCode: number | null;
  signal: string | null;
  finishedAt: string;
}

/** Shorter than a cancel's patience, so that the keeper does the killing and writes the end down. */
const KEEPER_GRACE_SECONDS = 8;
const LOCK_WAIT_SECONDS = 30;

/** The trainer that runs on this run's folder now, whoever started it. */
export async function findTrainer(run: RunDirectory): Promise<TrainerProcess | undefined> {
  const last = await lastTrainer(run);
  return last !== undefined && trainerIsAlive(last) ? last : undefined;
}

/** The trainer that was started last for this run's training, whether or not it runs. */
export async function lastTrainer(run: RunDirectory): Promise<TrainerProcess | undefined> {
  return readJson<TrainerProcess>(run.process);
}

/** How the given trainer ended; undefined while it runs or when its keeper died before it could tell. */
export async function exitOf(run: RunDirectory, trainer: ProcessIdentity): Promise<TrainerExit | undefined> {
  const exit = await readJson<TrainerExit>(run.exit);
  return exit?.pid === trainer.pid && exit.startTime === trainer.startTime ? exit : undefined;
}

/** Whether anything of this trainer still runs: itself or its keeper. */
export function trainerIsAlive(trainer: TrainerProcess): boolean {
  return isAlive(trainer) || isAlive(keeperOf(trainer));
}

/**
 * Start a trainer below a keeper that outlives this process, and wait for its `process.json`; returns the trainer of
 * another start that was faster, since a folder has one. Throws HostError when the keeper can't start.
 */
export async function startTrainer(
  run: RunDirectory,
  options: { argv: string[]; env?: Record<string, string>; attempt: number; owner: string },
): Promise<TrainerProcess> {
  const before = await lastTrainer(run);
  const keeperArgs = [
    ...[join(checkout, 'trainer/keeper.py'), '--train-dir', run.train],
    ...['--attempt', String(options.attempt), '--owner', options.owner],
    ...['--grace', String(KEEPER_GRACE_SECONDS), '--lock-wait', String(LOCK_WAIT_SECONDS)],
    ...['--', ...options.argv],
  ];
  const pid = startDetached(trainerPython, keeperArgs, run.trainerLog, { ...longRunningPython, ...options.env });
  const keeper = identify(pid);
  for (;;) {
    const keeperIsAlive = keeper !== undefined && isAlive(keeper);
    const now = await lastTrainer(run);
    const isNew = now !== undefined && (now.pid !== before?.pid || now.startTime !== before.startTime);
    if (isNew && now.keeper.pid === pid) return now;
    if (now !== undefined && trainerIsAlive(now)) {
      if (keeper !== undefined) signal(keeper, 'SIGTERM');
      return now;
    }
    if (!keeperIsAlive) {
      throw new TemperError(
        'HostError',
        `The trainer could not be started in ${run.train}; its log says why: ${run.trainerLog}`,
      );
    }
    await sleep(25);
  }
}

/**
 * Stop the trainer and every process below its keeper: SIGTERM (it saves a checkpoint between two steps), SIGKILL after
 * `graceMs`. Returns when nothing of it runs.
 */
export async function stopTrainer(trainer: TrainerProcess, graceMs: number): Promise<void> {
  await stopTree(keeperOf(trainer), graceMs);
  await stopTree(trainer, 1_000);
}

function keeperOf(trainer: TrainerProcess): ProcessIdentity {
  return { ...trainer.keeper, bootId: trainer.bootId };
}

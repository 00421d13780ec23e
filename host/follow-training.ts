import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkout } from './checkout.ts';
import type { TrainerNote } from './goodput/history.ts';
import { appendLine } from './json-lines.ts';
import { LossHistory } from './loss-history.ts';
import { median } from './median.ts';
import { processorSeconds } from './process-table.ts';
import type { RunDirectory } from './run-directory.ts';
import { runProgram } from './subprocess.ts';
import { EventReader, type TrainingEvent, type TrainingPhase } from './training-events.ts';
import { exitOf, stopTrainer, trainerIsAlive, type TrainerProcess } from './trainer-process.ts';

/** Where a training stands, for heartbeats and for people. */
export interface TrainingProgress {
  phase: TrainingPhase | 'starting';
  step: number;
  maxSteps: number | null;
  loss: number | null;
  /** The loss from the first step to the last one, as so many means as fit a line of a terminal. */
  losses: number[];
  /** Seconds an optimizer step takes, the median of the last ones; just after a resume, of those before it. */
  secondsPerStep: number | null;
  /** Seconds until the last step. */
  etaSeconds: number | null;
  /** Of GPU memory, by this training's process. */
  memoryReservedBytes: number | null;
  /** The newest checkpoint marked complete, by its step. */
  checkpointStep: number;
  pid: number;
}

/** How a trainer's process ended. */
export type TrainingEnd =
  | { kind: 'finished'; event: Extract<TrainingEvent, { type: 'finished' }> }
  | { kind: 'failed'; event: Extract<TrainingEvent, { type: 'failed' }> }
  | { kind: 'interrupted'; event: Extract<TrainingEvent, { type: 'interrupted' }> }
  | { kind: 'died'; how: string }
  | { kind: 'hung'; silentSeconds: number; stackDump: string };

export interface FollowOptions {
  signal: AbortSignal;
  onProgress: (progress: TrainingProgress) => void;
  hang: HangLimits;
}

/**
 * A training step is overdue after `factor` times its own pace, but not before `minSeconds`. Other phases, which have no
 * steps and may take hours, are hung once the trainer has not even computed for `quietSeconds`.
 */
export interface HangLimits {
  factor: number;
  minSeconds: number;
  quietSeconds: number;
}

const POLL_MS = 250;
const PACE_STEPS = 20;
/** The first steps after a start take longer than those that follow. */
const PACE_FROM_STEPS = 3;
const LOSS_POINTS = 60;
const WORK_SAMPLE_MS = 10_000;
/** Of the processor, from one sample to the next: waiting threads wake up too. */
const WORK_SHARE = 0.02;
/** However busily a phase without steps computes, it is hung after this. */
const MOST_SILENT_SECONDS = 48 * 3600;

/** Follow a running trainer by its events until its process has ended; throws the signal's reason when it aborts, leaving the trainer alone. */
export async function followTraining(
  run: RunDirectory,
  trainer: TrainerProcess,
  options: FollowOptions,
): Promise<TrainingEnd> {
  const reader = new EventReader(run.events);
  const state = new TrainingState(trainer);
  const work = new WorkMeter(trainer.pid);
  for (;;) {
    options.signal.throwIfAborted();
    const alive = trainerIsAlive(trainer);
    for (const event of await reader.read()) state.apply(event);
    options.onProgress(state.progress());
    if (!alive) return state.end ?? { kind: 'died', how: await describeDeath(run, trainer) };
    if (work.hasAdvanced()) state.worked();
    const silentSeconds = state.overdueSeconds(options.hang);
    if (silentSeconds !== undefined) {
      note(run, { type: 'hung', pid: trainer.pid, silentSeconds });
      const stackDump = await dumpStack(run, trainer);
      await stopTrainer(trainer, 5_000);
      note(run, { type: 'ended', pid: trainer.pid, how: 'it hung' }); // its keeper may have been killed with it
      return { kind: 'hung', silentSeconds, stackDump };
    }
    await sleep(POLL_MS, undefined, { signal: options.signal }).catch(() => {});
  }
}

/**
 * What the events so far add up to for one trainer: its own are those from its start on until another one starts. It may
 * have no `started` among them: it can fail before, or find the training finished.
 */
export class TrainingState {
  end: TrainingEnd | undefined;
  readonly #pid: number;
  readonly #startedAt: number;
  #whose: 'earlier' | 'own' | 'later' = 'earlier';
  #phase: TrainingProgress['phase'] = 'starting';
  #step = 0;
  #maxSteps: number | null = null;
  #loss: number | null = null;
  readonly #losses = new LossHistory();
  #memoryReservedBytes: number | null = null;
  #checkpointStep = 0;
  #pace: number[] = [];
  #paceBefore: number | null = null;
  #lastSign = Date.now() / 1000;
  #lastWork = 0;

  constructor({ pid, startedAt }: Pick<TrainerProcess, 'pid' | 'startedAt'>) {
    this.#pid = pid;
    this.#startedAt = Date.parse(startedAt);
  }

  apply(event: TrainingEvent): void {
    this.#place(event);
    if (this.#whose === 'later') return;
    if (event.type === 'started') {
      this.#paceBefore = this.#steadyPace();
      this.#pace = [];
      this.#losses.resumeAfter(event.resumedAtStep);
      this.#step = event.resumedAtStep;
      this.#checkpointStep = event.resumedAtStep;
    }
    if (event.type === 'checkpoint') this.#checkpointStep = event.atStep;
    if (event.type === 'phase') this.#phase = event.phase;
    if (event.type === 'step') {
      this.#step = event.step;
      this.#maxSteps = event.maxSteps;
      this.#loss = event.loss;
      this.#losses.add(event.step, event.loss);
      this.#memoryReservedBytes = event.memoryReservedBytes ?? null;
      if (event.secondsPerStep !== undefined) this.#pace = [...this.#pace.slice(1 - PACE_STEPS), event.secondsPerStep];
    }
    if (this.#whose !== 'own') return;
    this.#lastSign = Math.max(this.#lastSign, event.time);
    if (event.type === 'finished') this.end = { kind: 'finished', event };
    if (event.type === 'failed') this.end = { kind: 'failed', event };
    if (event.type === 'interrupted') this.end = { kind: 'interrupted', event };
  }

  progress(): TrainingProgress {
    const secondsPerStep = this.#steadyPace();
    const left = this.#maxSteps === null ? null : this.#maxSteps - this.#step;
    return {
      phase: this.#whose === 'earlier' ? 'starting' : this.#phase,
      step: this.#step,
      maxSteps: this.#maxSteps,
      loss: this.#loss,
      losses: this.#losses.means(LOSS_POINTS).map((loss) => Number(loss.toPrecision(4))),
      secondsPerStep,
      etaSeconds: secondsPerStep === null || left === null ? null : Math.round(secondsPerStep * left),
      memoryReservedBytes: this.#memoryReservedBytes,
      checkpointStep: this.#checkpointStep,
      pid: this.#pid,
    };
  }

  /** Note that the trainer computes, which is a sign of life where there are no steps. */
  worked(now = Date.now() / 1000): void {
    this.#lastWork = now;
  }

  /** Seconds without a sign of life when that is too long, else undefined. */
  overdueSeconds(limits: HangLimits, now = Date.now() / 1000): number | undefined {
    const pace = median(this.#pace);
    const silent = now - this.#lastSign;
    if (this.#whose === 'own' && this.#phase === 'training' && pace !== undefined)
      return silent > Math.max(limits.minSeconds, limits.factor * pace) ? Math.round(silent) : undefined;
    const idle = now - Math.max(this.#lastSign, this.#lastWork);
    return idle > limits.quietSeconds || silent > MOST_SILENT_SECONDS ? Math.round(silent) : undefined;
  }

  #steadyPace(): number | null {
    const isEnough = this.#pace.length >= PACE_FROM_STEPS || this.#paceBefore === null;
    return isEnough ? (median(this.#pace) ?? null) : this.#paceBefore;
  }

  #place(event: TrainingEvent): void {
    const since = Math.round(event.time * 1000) >= this.#startedAt;
    if (since && event.type === 'started' && event.pid !== this.#pid) this.#whose = 'later';
    else if (since && this.#whose === 'earlier') this.#whose = 'own';
  }
}

/** Let the history of the folder's trainers tell a hang from a death. */
function note(run: RunDirectory, line: TrainerNote): void {
  appendLine(run.trainers, { ...line, at: new Date().toISOString() });
}

/** Whether a process tree computes, by the processor time it has used from one sample to the next. */
class WorkMeter {
  readonly #pid: number;
  #sampledAt = Date.now();
  #seconds: number;

  constructor(pid: number) {
    this.#pid = pid;
    this.#seconds = processorSeconds(pid);
  }

  hasAdvanced(): boolean {
    const elapsed = Date.now() - this.#sampledAt;
    if (elapsed < WORK_SAMPLE_MS) return false;
    const seconds = processorSeconds(this.#pid);
    const used = seconds - this.#seconds;
    this.#sampledAt += elapsed;
    this.#seconds = seconds;
    return used > (WORK_SHARE * elapsed) / 1000;
  }
}

async function describeDeath(run: RunDirectory, trainer: TrainerProcess): Promise<string> {
  const exit = await exitOf(run, trainer);
  if (exit === undefined) return 'it vanished together with its keeper (killed, or the host restarted)';
  return exit.signal === null
    ? `it ended with exit code ${exit.exitCode} and no last word`
    : `it was killed by ${exit.signal}`;
}

/** Keep what a hung trainer was doing, by py-spy; returns the file. */
async function dumpStack(run: RunDirectory, trainer: TrainerProcess): Promise<string> {
  const folder = join(run.train, 'stacks');
  await mkdir(folder, { recursive: true });
  const file = join(folder, `${new Date().toISOString().replaceAll(':', '-')}.txt`);
  const dump = await runProgram(join(checkout, 'trainer/.venv/bin/py-spy'), ['dump', '--pid', String(trainer.pid)], {
    timeoutMs: 20_000,
  });
  await writeFile(file, dump.stdout || `py-spy could not dump the stack: ${dump.startError ?? dump.stderr}\n`);
  return file;
}

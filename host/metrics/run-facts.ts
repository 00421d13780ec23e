import { stat } from 'node:fs/promises';
import type { EarlierManifest } from '../earlier-runs.ts';
import type { Cause } from '../goodput/account.ts';
import { readGoodput } from '../goodput/run-goodput.ts';
import { readLines } from '../json-lines.ts';
import { runDirectory, runsIn, type RunDirectory } from '../run-directory.ts';
import { failedAttempts, type StageAttempt } from '../stage-attempts.ts';
import { readJson } from '../state-file.ts';
import { findTrainer } from '../trainer-process.ts';
import { EventReader, type TrainingEvent } from '../training-events.ts';
import { CachedFiles } from './cached-file.ts';

export type Step = Extract<TrainingEvent, { type: 'step' }>;

/** What metrics need to know of a run. */
export interface RunFacts {
  runName: string;
  /** How the run ended last; undefined for one that never has. */
  outcome: string | undefined;
  failures: StageFailure[];
  /** Seconds of the training by cause; undefined for a run that has not trained. */
  seconds: Record<Cause, number> | undefined;
  /** Set while a trainer lives or an attempt at the training is under way. */
  training: TrainingFacts | undefined;
}

export interface StageFailure {
  stage: string;
  error: string;
}

export interface TrainingFacts {
  isRunning: boolean;
  step: Step | undefined;
  /** When the last step ended, or the attempt began if there was no step since; seconds since the epoch. */
  progressedAt: number | undefined;
}

/** Of a run that trains, the seconds by cause are counted anew no more often than this: each time all its events are read. */
const GOODPUT_INTERVAL_MS = 60_000;

/** Reads the runs of a home again and again; what has not changed is not read twice. */
export class RunReader {
  readonly #home: string;
  readonly #manifests = new CachedFiles<EarlierManifest | undefined>();
  readonly #attempts = new CachedFiles<StageAttempt[]>();
  readonly #goodputs = new CachedFiles<Record<Cause, number> | undefined>();
  readonly #recentGoodputs = new Map<string, { until: number; seconds: Record<Cause, number> | undefined }>();
  readonly #steps = new Map<string, { file: number; reader: EventReader; last: Step | undefined }>();

  constructor(home: string) {
    this.#home = home;
  }

  async read(): Promise<RunFacts[]> {
    const facts: RunFacts[] = [];
    for (const name of await runsIn(this.#home)) {
      const one = await this.#readRun(name).catch(() => undefined); // not a run's folder, or one that is being removed
      if (one !== undefined) facts.push(one);
    }
    return facts;
  }

  async #readRun(runName: string): Promise<RunFacts> {
    const run = runDirectory(this.#home, runName);
    const manifest = await this.#manifests.get([run.manifest], () => readJson<EarlierManifest>(run.manifest));
    const attempts = await this.#attempts.get([run.stageAttempts], () => readLines<StageAttempt>(run.stageAttempts));
    const training = await this.#trainingOf(runName, run, attempts);
    return {
      ...{ runName, outcome: manifest?.outcome, failures: failuresIn(attempts), training },
      seconds: await this.#secondsOf(runName, run, training?.isRunning ?? false),
    };
  }

  async #trainingOf(runName: string, run: RunDirectory, attempts: StageAttempt[]): Promise<TrainingFacts | undefined> {
    const attempt = attempts.findLast(({ stage }) => stage === 'trainModel');
    const isRunning = (await findTrainer(run)) !== undefined;
    if (!isRunning && attempt?.type !== 'began') {
      this.#steps.delete(runName);
      return undefined;
    }
    const step = await this.#lastStep(runName, run);
    const beganAt = attempt?.type === 'began' ? Date.parse(attempt.at) / 1000 : undefined;
    const signs = [step?.time, beganAt].filter((sign) => sign !== undefined);
    return { isRunning, step, progressedAt: signs.length === 0 ? undefined : Math.max(...signs) };
  }

  async #lastStep(runName: string, { events }: RunDirectory): Promise<Step | undefined> {
    const file = (await stat(events).catch(() => undefined))?.ino ?? 0; // another one once another training begins
    let known = this.#steps.get(runName);
    if (known?.file !== file) known = { file, reader: new EventReader(events), last: undefined };
    this.#steps.set(runName, known);
    for (const event of await known.reader.read()) if (event.type === 'step') known.last = event;
    return known.last;
  }

  async #secondsOf(runName: string, run: RunDirectory, isRunning: boolean): Promise<Record<Cause, number> | undefined> {
    const read = async () => (await readGoodput(run))?.seconds;
    if (!isRunning) {
      this.#recentGoodputs.delete(runName);
      return this.#goodputs.get([run.stageAttempts, run.trainers, run.events, run.attempts, run.process], read);
    }
    const recent = this.#recentGoodputs.get(runName);
    if (recent !== undefined && Date.now() < recent.until) return recent.seconds;
    const seconds = await read();
    this.#recentGoodputs.set(runName, { until: Date.now() + GOODPUT_INTERVAL_MS, seconds });
    return seconds;
  }
}

function failuresIn(attempts: StageAttempt[]): StageFailure[] {
  return failedAttempts(attempts).map(({ stage, error }) => ({ stage, error }));
}

import { modelFlopsUtilization, stepFlops, type Setup } from '../planning/mfu.ts';
import { readModelShape, type ModelShape } from '../planning/model-shape.ts';
import type { RunDirectory } from '../run-directory.ts';
import { readLines } from '../json-lines.ts';
import { readAttempts, type StageAttempt } from '../stage-attempts.ts';
import { readJson } from '../state-file.ts';
import { readEvents } from '../training-events.ts';
import { findTrainer } from '../trainer-process.ts';
import { accountOf, type Account, type CountedStep } from './account.ts';
import type { TrainerLife, TrainerLine } from './history.ts';
import { startUpsOf, type StartUp } from './start-ups.ts';
import { timelineOf } from './timeline.ts';

/** Where the time of a run's training went. */
export interface RunGoodput extends Account {
  /** `running` while its trainer lives; `ended` when it lives no more and did not come to its end, for all that is known here. */
  state: 'done' | 'running' | 'ended';
  /** ISO time when the stage was scheduled. */
  since: string;
  startUps: StartUp[];
  /** Real tokens a second, over the productive time; undefined where the trainer did not count them. */
  tokensPerSecond: number | undefined;
  /** Model FLOPs utilization over the productive time (`host/planning/mfu.ts`); undefined where it can't be told. */
  mfu: number | undefined;
  /** GPU and how many, as the last trainer found them. */
  device: string | undefined;
}

/** What is read of `run.json`. */
interface Recorded {
  config?: { train: Record<string, unknown> };
  plan?: { training: Record<string, unknown>; shape: ModelShape };
}

/** Read it from the run directory; undefined for a run whose training was never begun on this host. */
export async function readGoodput(run: RunDirectory): Promise<RunGoodput | undefined> {
  const trainer = await findTrainer(run);
  const history = {
    attempts: await attemptsOfThisTraining(run),
    trainers: await readLines<TrainerLine>(run.trainers),
    events: await readEvents(run.events),
    now: trainer === undefined ? undefined : Date.now() / 1000,
  };
  const timeline = timelineOf(history);
  const first = timeline.segments[0];
  if (first === undefined) return undefined;
  const account = accountOf(timeline);
  const setup = timeline.trainers.map(setupOf).findLast((each) => each !== undefined);
  const hasFinished = timeline.trainers.at(-1)?.events.some(({ type }) => type === 'finished') ?? false;
  return {
    ...account,
    state: trainer !== undefined ? 'running' : hasFinished ? 'done' : 'ended',
    since: new Date(first.from * 1000).toISOString(),
    startUps: startUpsOf(timeline),
    tokensPerSecond: tokensPerSecond(account.steps),
    mfu: await mfuOf(run, account.steps),
    device: setup && (setup.devices === 1 ? setup.device : `${setup.devices} × ${setup.device}`),
  };
}

/** Attempts from the one on that began this training: the folder may have held another one before. */
async function attemptsOfThisTraining(run: RunDirectory): Promise<StageAttempt[]> {
  const attempts = await readAttempts(run, 'trainModel');
  const since = (await readJson<{ since?: string }>(run.attempts))?.since;
  if (since === undefined) return attempts;
  const first = attempts.findLastIndex(({ type, at }) => type === 'began' && at <= since);
  return attempts.slice(Math.max(0, first));
}

function tokensPerSecond(steps: CountedStep[]): number | undefined {
  let [tokens, taken] = [0, 0];
  for (const { event, seconds } of steps) {
    if (event.work === undefined) return undefined;
    tokens += event.work.tokens;
    taken += seconds;
  }
  return taken > 0 ? tokens / taken : undefined;
}

async function mfuOf(run: RunDirectory, steps: CountedStep[]): Promise<number | undefined> {
  const recorded = await readJson<Recorded>(run.run);
  const options = recorded?.plan?.training ?? recorded?.config?.train;
  if (options === undefined) return undefined;
  const shape =
    recorded?.plan?.shape ?? (await readModelShape(String(options.model_name_or_path)).catch(() => undefined));
  if (shape === undefined) return undefined;
  return modelFlopsUtilization(
    steps.map(({ event, trainer, seconds }) => {
      const setup = setupOf(trainer);
      const flops = event.work && setup && stepFlops(shape, options, setup.trainableParameters, event.work);
      return { flops, seconds, setup };
    }),
  );
}

function setupOf({ events }: TrainerLife): Setup | undefined {
  const event = events.findLast(({ type }) => type === 'setup');
  return event?.type === 'setup' ? event : undefined;
}

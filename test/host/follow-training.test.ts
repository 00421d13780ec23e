import { describe, expect, jest, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import {
  followTraining,
  TrainingState,
  type HangLimits,
  type TrainingEnd,
  type TrainingProgress,
} from '../../host/follow-training.ts';
import type { TrainerLine } from '../../host/goodput/history.ts';
import { readLines } from '../../host/json-lines.ts';
import type { RunDirectory } from '../../host/run-directory.ts';
import { readJson, writeJson } from '../../host/state-file.ts';
import type { TrainingEvent } from '../../host/training-events.ts';
import { stopTrainer, trainerIsAlive, type TrainerProcess } from '../../host/trainer-process.ts';
import { ENDLESS, eventually, newRun, startStandIn, type StandIn } from '../fixtures/trainers/stand-in.ts';

jest.setTimeout(60_000);

const patient: HangLimits = { factor: 20, minSeconds: 120, quietSeconds: 1800 };

describe('followed to its end', () => {
  test.concurrent('a training that succeeds has told of every step', async () => {
    const run = newRun();
    const trainer = await startStandIn(run, ['succeeds']);
    const { end, seen } = await follow(run, trainer);
    expect(end).toMatchObject({
      kind: 'finished',
      event: { atStep: 4, maxSteps: 4, stopped: false, adapter: run.trainOutput },
    });
    expect(seen.at(-1)).toMatchObject({
      step: 4,
      maxSteps: 4,
      loss: 0.25,
      secondsPerStep: 0.02,
      etaSeconds: 0,
      checkpointStep: 4,
      pid: trainer.pid,
    });
  });

  test.concurrent.each<[string, [StandIn, ...string[]], object]>([
    [
      'one that fails says so by name',
      ['fails', '--error', 'DatasetError'],
      { kind: 'failed', event: { error: 'DatasetError', exception: 'ValueError' } },
    ],
    [
      'one that fails before it has begun, too',
      ['fails', '--before-start', '--error', 'ConfigError'],
      { kind: 'failed', event: { error: 'ConfigError' } },
    ],
    ['one without memory', ['out_of_memory', '--fits', '0'], { kind: 'failed', event: { error: 'OutOfMemoryError' } }],
    ['one that is killed', ['dies_mid_checkpoint'], { kind: 'died', how: 'it was killed by SIGKILL' }],
    [
      'one that ends without a word',
      ['succeeds', '--no-such-flag'],
      { kind: 'died', how: 'it ended with exit code 2 and no last word' },
    ],
  ])('%s', async (_, command, end) => {
    const run = newRun();
    expect((await follow(run, await startStandIn(run, command))).end).toMatchObject(end);
  });

  test.concurrent('one that is told to end by somebody else was interrupted', async () => {
    const run = newRun();
    const trainer = await startStandIn(run, ['succeeds', '--steps', ENDLESS]);
    await followUntil(run, trainer, ({ step }) => step > 0);
    process.kill(trainer.pid, 'SIGTERM');
    expect((await follow(run, trainer)).end).toMatchObject({ kind: 'interrupted', event: { signal: 'SIGTERM' } });
  });

  test.concurrent('one that vanishes with its keeper, as at a power cut, has died', async () => {
    const run = newRun();
    const trainer = await startStandIn(run, ['succeeds', '--steps', ENDLESS]);
    process.kill(trainer.keeper.pid, 'SIGKILL');
    expect((await follow(run, trainer)).end).toEqual({
      kind: 'died',
      how: expect.stringContaining('vanished together with its keeper'),
    });
    expect(trainerIsAlive(trainer)).toBe(false);
  });

  test.concurrent('a resume goes on from the checkpoint that is whole', async () => {
    const run = newRun();
    await follow(run, await startStandIn(run, ['dies_mid_checkpoint', '--deaths', '1'], 1));
    const { end, seen } = await follow(
      run,
      await startStandIn(run, ['dies_mid_checkpoint', '--deaths', '1', '--steps', '6'], 2),
    );
    expect(end).toMatchObject({ kind: 'finished', event: { atStep: 6 } });
    expect(
      Math.min(...seen.filter(({ phase }) => phase !== 'starting').map(({ step }) => step)),
    ).toBeGreaterThanOrEqual(2);
  });

  test.concurrent('a training that had finished before it was started again has finished', async () => {
    const run = newRun();
    await follow(run, await startStandIn(run, ['succeeds'], 1));
    const { end } = await follow(run, await startStandIn(run, ['succeeds'], 2));
    expect(end).toMatchObject({ kind: 'finished', event: { atStep: 4 } });
  });

  test.concurrent("an earlier attempt's ending is not taken for this one's", async () => {
    const run = newRun();
    await follow(run, await startStandIn(run, ['fails'], 1));
    const { end } = await follow(run, await startStandIn(run, ['succeeds', '--no-such-flag'], 2));
    expect(end).toMatchObject({ kind: 'died' });
  });

  test.concurrent("nor is that of a trainer which has taken this one's place", async () => {
    const run = newRun();
    const first = await startStandIn(run, ['fails', '--gain', ENDLESS, '--steps', ENDLESS], 1);
    process.kill(first.keeper.pid, 'SIGKILL');
    await eventually(() => !trainerIsAlive(first));
    await follow(run, await startStandIn(run, ['succeeds'], 2));
    expect((await follow(run, first)).end).toMatchObject({ kind: 'died' });
  });

  test.concurrent('half a line is waited for, and one torn by a death spoils no other', async () => {
    const run = newRun();
    const torn = await follow(run, await startStandIn(run, ['writes_half_a_line', '--deaths', '1'], 1));
    expect(torn.end).toMatchObject({ kind: 'died' });
    const flags = ['--deaths', '1', '--seconds-per-step', '0.6'];
    const whole = await follow(run, await startStandIn(run, ['writes_half_a_line', ...flags], 2));
    expect(whole.end).toMatchObject({ kind: 'finished' });
    expect(whole.seen.some(({ step, loss }) => step === 1 && loss === 1)).toBe(true);
  });

  test.concurrent('one that makes no step any more is stopped, and what it did is kept', async () => {
    const run = newRun();
    const trainer = await startStandIn(run, ['hangs_silently', '--gain', '3', '--steps', ENDLESS]);
    const { end } = await follow(run, trainer, { hang: { factor: 5, minSeconds: 1, quietSeconds: 1800 } });
    expect(end).toMatchObject({ kind: 'hung', stackDump: expect.stringContaining(run.train) });
    const told = await readLines<TrainerLine>(run.trainers);
    expect(told.map(({ type, pid }) => [type, pid])).toEqual([
      ['started', trainer.pid],
      ['hung', trainer.pid],
      ['ended', trainer.pid],
    ]);
    const { stackDump, silentSeconds } = end as Extract<TrainingEnd, { kind: 'hung' }>;
    expect(silentSeconds).toBeGreaterThanOrEqual(1);
    expect(readFileSync(stackDump, 'utf8')).toMatch(/wait_for_a_rank_that_is_gone|py-spy could not dump/);
    expect(trainerIsAlive(trainer)).toBe(false);
  });

  test.concurrent('whoever stops following leaves the trainer alone', async () => {
    const run = newRun();
    const trainer = await startStandIn(run, ['succeeds', '--steps', ENDLESS]);
    const stop = new AbortController();
    const reason = new Error('the worker shuts down');
    const following = follow(run, trainer, {
      signal: stop.signal,
      onProgress: ({ step }) => void (step > 2 && stop.abort(reason)),
    });
    await expect(following).rejects.toBe(reason);
    expect(trainerIsAlive(trainer)).toBe(true);
    await stopTrainer(trainer, 20_000);
  });

  test.concurrent('whoever comes later sees where the training stands at once', async () => {
    const run = newRun();
    const trainer = await startStandIn(run, ['succeeds', '--steps', ENDLESS]);
    await followUntil(run, trainer, ({ checkpointStep }) => checkpointStep >= 4);
    const [first] = await followUntil(run, trainer, () => true);
    expect(first).toMatchObject({
      phase: expect.stringMatching(/training|saving/),
      maxSteps: Number(ENDLESS),
      secondsPerStep: 0.02,
    });
    expect(first?.step).toBeGreaterThanOrEqual(4);
    await stopTrainer(trainer, 20_000);
  });

  test.concurrent('a process.json of another boot is of a trainer that is gone', async () => {
    const run = newRun();
    const trainer = await startStandIn(run, ['succeeds', '--steps', ENDLESS]);
    const recorded = await readJson<TrainerProcess>(run.process);
    await writeJson(run.process, { ...recorded, bootId: 'another boot' });
    expect((await follow(run, { ...trainer, bootId: 'another boot' })).end).toMatchObject({ kind: 'died' });
    await stopTrainer(trainer, 20_000);
  });
});

const START = 1_700_000_000;
const PID = 4242;

describe('the time that is left', () => {
  test('is the median pace times the steps to go', () => {
    const state = stateOf([started(0), phase('training'), step(1, 10, 2), step(2, 10, 2), step(3, 10, 90)]);
    expect(state.progress()).toMatchObject({ step: 3, maxSteps: 10, secondsPerStep: 2, etaSeconds: 14 });
  });

  test('is not known before the first step, and goes by the pace before a resume until three steps tell the new one', () => {
    expect(stateOf([started(0)]).progress()).toMatchObject({ step: 0, etaSeconds: null });
    const earlier = { time: START - 100 };
    const before = [1, 2, 3, 4, 5].map((number) => ({ ...step(number, 10, 3), ...earlier }));
    const resumed = stateOf([{ ...started(0, 1), ...earlier }, ...before, started(4)]);
    expect(resumed.progress()).toMatchObject({ step: 4, maxSteps: 10, secondsPerStep: 3, etaSeconds: 18 });
    resumed.apply(step(5, 10, 90));
    expect(resumed.progress()).toMatchObject({ step: 5, secondsPerStep: 3, etaSeconds: 15 });
    for (const number of [6, 7]) resumed.apply(step(number, 10, 1));
    expect(resumed.progress()).toMatchObject({ step: 7, secondsPerStep: 1, etaSeconds: 3 });
  });

  test('comes with the losses that count, in means when there are many', () => {
    const steps = [9, 8, 7, 6].map((loss, index) => ({ ...step(index + 1, 200, 1), loss }) as TrainingEvent);
    const state = stateOf([started(0), ...steps, started(2), { ...step(3, 200, 1), loss: 5 } as TrainingEvent]);
    expect(state.progress().losses).toEqual([9, 8, 5]);
    for (let number = 4; number <= 120; number++)
      state.apply({ ...step(number, 200, 1), loss: number % 2 } as TrainingEvent);
    const { losses } = state.progress();
    expect(losses).toHaveLength(60);
    expect(losses.slice(0, 3)).toEqual([8.5, 2.5, 0.5]);
  });

  test('follows the pace of the last twenty steps', () => {
    const slow = Array.from({ length: 20 }, (_, index) => step(index + 1, 100, 10));
    const fast = Array.from({ length: 20 }, (_, index) => step(index + 21, 100, 1));
    expect(stateOf([started(0), ...slow, ...fast]).progress()).toMatchObject({ secondsPerStep: 1, etaSeconds: 60 });
  });
});

test('a resume from an older checkpoint, the newest being damaged, goes back to that one', () => {
  const earlier = { time: START - 100 };
  const state = stateOf([{ ...checkpoint(8), ...earlier }, started(4)]);
  expect(state.progress()).toMatchObject({ step: 4, checkpointStep: 4 });
});

describe('a trainer counts as hung', () => {
  const limits: HangLimits = { factor: 20, minSeconds: 120, quietSeconds: 1800 };
  const training = [started(0), phase('training')];
  test.each<[string, TrainingEvent[], number]>([
    ['when a fast step takes over two minutes', [...training, step(1, 9, 0.5)], 120],
    ['when a slow step takes twenty times its pace', [...training, step(1, 9, 30)], 600],
    ['half an hour into its first step', training, 1800],
    ['half an hour into a checkpoint', [...training, step(1, 9, 0.5), phase('saving')], 1800],
    ['half an hour into an evaluation', [...training, step(1, 9, 0.5), phase('evaluating')], 1800],
    ['half an hour into loading', [started(0), phase('loading')], 1800],
    [
      'half an hour into loading again after a crash',
      [{ ...step(1, 9, 0.5), time: START - 1 }, started(0), phase('loading')],
      1800,
    ],
    ['half an hour after the start, never having said a word', [], 1800],
  ])('%s', (_, events, seconds) => {
    const state = stateOf(events);
    const now = Date.now() / 1000;
    expect(state.overdueSeconds(limits, now + seconds - 10)).toBeUndefined();
    expect(state.overdueSeconds(limits, now + seconds + 10)).toBeGreaterThanOrEqual(seconds);
  });

  test('but not while it computes in a phase without steps, for two days at most', () => {
    const now = Date.now() / 1000;
    const state = stateOf([started(0), phase('loading')]);
    for (let hours = 1; hours < 47; hours++) {
      expect(state.overdueSeconds(limits, now + hours * 3600 - 1801)).toBeUndefined();
      state.worked(now + hours * 3600);
    }
    expect(state.overdueSeconds(limits, now + 46 * 3600 + 1700)).toBeUndefined();
    expect(state.overdueSeconds(limits, now + 46 * 3600 + 1900)).toBeGreaterThan(46 * 3600);
    state.worked(now + 48 * 3600);
    expect(state.overdueSeconds(limits, now + 48 * 3600 + 60)).toBeGreaterThan(48 * 3600);
  });

  test('and computing is no excuse for a step that does not come', () => {
    const now = Date.now() / 1000;
    const state = stateOf([...training, step(1, 9, 0.5)]);
    state.worked(now + 125);
    expect(state.overdueSeconds(limits, now + 130)).toBeGreaterThanOrEqual(129);
  });

  test('but not while steps come', () => {
    const now = Date.now() / 1000;
    const state = stateOf([...training, step(1, 9, 1)]);
    state.apply({ ...step(2, 9, 1), time: now + 1000 });
    expect(state.overdueSeconds(limits, now + 1100)).toBeUndefined();
    expect(state.overdueSeconds(limits, now + 1130)).toBe(130);
  });
});

function stateOf(events: TrainingEvent[]): TrainingState {
  const state = new TrainingState({ pid: PID, startedAt: new Date(START * 1000).toISOString() });
  for (const event of events) state.apply(event);
  return state;
}

function started(resumedAtStep: number, pid = PID): TrainingEvent {
  return { type: 'started', attempt: 1, pid, resumedFrom: null, resumedAtStep, time: START };
}

function phase(name: 'training' | 'saving' | 'evaluating' | 'loading'): TrainingEvent {
  return { type: 'phase', phase: name, time: START };
}

function step(number: number, maxSteps: number, secondsPerStep: number): TrainingEvent {
  return { type: 'step', step: number, loss: 1, maxSteps, secondsPerStep, time: START };
}

function checkpoint(atStep: number): TrainingEvent {
  return { type: 'checkpoint', checkpoint: `checkpoint-${atStep}`, atStep, sizeBytes: 1, time: START };
}

interface Watching {
  signal?: AbortSignal;
  onProgress?: (progress: TrainingProgress) => void;
  hang?: HangLimits;
}

async function follow(
  run: RunDirectory,
  trainer: TrainerProcess,
  watching: Watching = {},
): Promise<{ end: TrainingEnd; seen: TrainingProgress[] }> {
  const { signal = new AbortController().signal, hang = patient } = watching;
  const seen: TrainingProgress[] = [];
  const onProgress = (progress: TrainingProgress) => {
    seen.push(progress);
    watching.onProgress?.(progress);
  };
  return { end: await followTraining(run, trainer, { signal, hang, onProgress }), seen };
}

/** Follow a trainer until its progress is as wanted, then leave it; returns the progress seen. */
async function followUntil(
  run: RunDirectory,
  trainer: TrainerProcess,
  wanted: (progress: TrainingProgress) => boolean,
): Promise<TrainingProgress[]> {
  const seen: TrainingProgress[] = [];
  const stop = new AbortController();
  const onProgress = (progress: TrainingProgress) => {
    seen.push(progress);
    if (wanted(progress)) stop.abort();
  };
  await follow(run, trainer, { signal: stop.signal, onProgress }).catch(() => {});
  return seen;
}

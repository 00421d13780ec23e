import { expect, test } from '@jest/globals';
import { accountOf, causes } from '../../../host/goodput/account.ts';
import { startUpsOf } from '../../../host/goodput/start-ups.ts';
import { timelineOf } from '../../../host/goodput/timeline.ts';
import type { TrainingEvent } from '../../../host/training-events.ts';
import { simulateTraining } from '../../support/simulated-training.ts';

const seeds = Array.from({ length: 1000 }, (_, seed) => seed + 1);

test('of a thousand simulated trainings, however they were struck, every second goes where it went', () => {
  const struck = new Set<string>();
  for (const seed of seeds) {
    const { history, truth, story } = simulateTraining(seed);
    for (const line of story) struck.add(line.split(' after')[0]!);
    const account = accountOf(timelineOf(history));
    for (const cause of causes)
      if (Math.abs(account.seconds[cause] - truth[cause]) > 0.01)
        throw new Error(`seed ${seed}, ${cause}: ${account.seconds[cause]}, not ${truth[cause]} (${story.join('; ')})`);
    const wall = causes.reduce((sum, cause) => sum + truth[cause], 0);
    expect(account.wallSeconds).toBeCloseTo(wall, 2);
    expect(account.goodput).toBeCloseTo(truth.productive / wall, 4);
  }
  expect(struck).toContain('given up');
  for (const how of ['killed', 'powerLost', 'hung', 'paused', 'terminated'])
    for (const where of ['startUp', 'preprocessing', 'repeated', 'saving', 'evaluation'])
      expect(struck).toContain(`${how} in ${where}`);
});

test('the timeline has neither gaps nor overlaps, but between a workflow ended from outside and the next start', () => {
  for (const seed of seeds.slice(0, 300)) {
    const { history, story } = simulateTraining(seed);
    const { segments } = timelineOf(history);
    const gaps = segments.slice(1).filter(({ from }, index) => Math.abs(from - segments[index]!.to) > 1e-6);
    expect(gaps.length).toBe(story.filter((line) => line.startsWith('terminated')).length);
    expect(segments.every(({ from, to }) => to > from)).toBe(true);
  }
});

test('each start is told from its cause to its first step, and its parts add up', () => {
  for (const seed of seeds.slice(0, 300)) {
    const { history } = simulateTraining(seed);
    const timeline = timelineOf(history);
    const startUps = startUpsOf(timeline);
    expect(startUps).toHaveLength(timeline.trainers.length);
    startUps.forEach(({ seconds, parts, isResume }, index) => {
      expect(isResume).toBe(index > 0);
      if (seconds === null) return;
      const { events, startedAt } = timeline.trainers[index]!;
      const firstStep = events.find(({ type }) => type === 'step')!.time;
      const before = timeline.trainers[index - 1]?.endedAt;
      const began = history.attempts.filter(({ type, at }) => type === 'began' && Date.parse(at) / 1000 <= startedAt);
      if (before === undefined) expect(seconds).toBeCloseTo(firstStep - Date.parse(began.at(-1)!.at) / 1000, 2);
      else expect(seconds).toBeLessThanOrEqual(firstStep - before + 0.01);
      expect(Object.values(parts).reduce((sum, part) => sum + part, 0)).toBeCloseTo(seconds, 2);
      expect(parts.beforeTrainer).toBeCloseTo(0.5, 2);
      expect(parts.process).toBeCloseTo(0.3, 2);
      expect(parts.firstStep).toBeGreaterThanOrEqual(2);
    });
  }
});

const events = (...told: TrainingEvent[]) => ({ attempts: [], trainers: [], now: undefined, events: told });

test('without word of attempts and keepers, as in runs of earlier versions, the events alone are counted', () => {
  const account = accountOf(
    timelineOf(
      events(
        started(0, 7, 0),
        { type: 'phase', phase: 'importing', time: 1 },
        { type: 'phase', phase: 'training', time: 9 },
        step(1, 13),
        step(2, 15),
        step(3, 17),
        started(1, 8, 100),
        { type: 'phase', phase: 'training', time: 104 },
        step(2, 106),
        step(3, 108),
        { type: 'phase', phase: 'finishing', time: 108 },
        { type: 'finished', atStep: 3, maxSteps: 3, stopped: false, adapter: '', time: 109 },
      ),
    ),
  );
  expect(account.seconds).toEqual({
    // Nobody saw the first trainer end: it gets one step's time for the step that it was at.
    ...{ productive: 2 + 4, startUp: 9 + 2 + 4, repeated: 4 + 2, idle: 81, saving: 1 },
    ...{ queue: 0, preprocessing: 0, evaluation: 0, hang: 0 },
  });
  expect(account.steps.map((each) => each.event.step)).toEqual([1, 2, 3]);
  expect(account.repeatedSteps).toBe(2);
});

test('a trainer that is started again by the same attempt, with a smaller cut, is one more start', () => {
  const at = (second: number) => new Date(second * 1000).toISOString();
  const who = { stage: 'trainModel', executionId: 'one', attempt: 1 };
  const worker = { pid: 1, startTime: 1, bootId: '', host: '' };
  const timeline = timelineOf({
    attempts: [
      { type: 'began', ...who, scheduledAt: at(0), worker, taskToken: '', at: at(10) },
      { type: 'ended', ...who, how: 'done', at: at(60) },
    ],
    trainers: [
      { type: 'started', pid: 1, attempt: 1, at: at(11) },
      { type: 'ended', pid: 1, how: 'exit code 1', at: at(20) },
      { type: 'started', pid: 2, attempt: 1, at: at(21) },
      { type: 'ended', pid: 2, how: 'exit code 0', at: at(59) },
    ],
    events: [
      started(0, 1, 12),
      { type: 'phase', phase: 'training', time: 15 },
      started(0, 2, 23),
      { type: 'phase', phase: 'training', time: 26 },
      step(1, 30),
      step(2, 34),
      { type: 'phase', phase: 'finishing', time: 34 },
      { type: 'finished', atStep: 2, maxSteps: 2, stopped: false, adapter: '', time: 58 },
    ],
    now: undefined,
  });
  expect(accountOf(timeline).seconds).toMatchObject({ queue: 10, startUp: 1 + 4 + 5, idle: 1, productive: 8 });
  expect(accountOf(timeline).seconds).toMatchObject({ repeated: 4 + 1, saving: 26 });
  expect(startUpsOf(timeline).map(({ seconds, isResume }) => [seconds, isResume])).toEqual([
    [null, false],
    [10, true],
  ]);
});

test('of nothing there is no goodput', () => {
  expect(accountOf(timelineOf(events()))).toMatchObject({ wallSeconds: 0, goodput: null, steps: [] });
});

function started(resumedAtStep: number, pid: number, time: number): TrainingEvent {
  return { type: 'started', attempt: 1, pid, resumedFrom: null, resumedAtStep, time };
}

function step(number: number, time: number): TrainingEvent {
  return { type: 'step', step: number, loss: 1, maxSteps: 3, secondsPerStep: 2, time };
}

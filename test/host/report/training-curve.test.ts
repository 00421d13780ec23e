import { expect, test } from '@jest/globals';
import { trainingCurve } from '../../../host/report/training-curve.ts';
import type { TrainingEvent } from '../../../host/training-events.ts';

const step = (number: number, loss: number | null): TrainingEvent => ({
  ...{ type: 'step', step: number, loss, learningRate: 0.1, maxSteps: 10, time: number },
});
const started = (resumedAtStep: number): TrainingEvent => ({
  ...{ type: 'started', attempt: 1, pid: 1, resumedFrom: null, resumedAtStep, time: 0 },
});

test('a resume throws away steps, evaluations and checkpoints past where it began, and they are kept apart', () => {
  const curve = trainingCurve([
    ...[started(0), step(1, 4), step(2, 3), step(3, 2)],
    { type: 'evaluation', atStep: 3, evalLoss: 9, time: 3 },
    { type: 'checkpoint', checkpoint: '', atStep: 3, sizeBytes: 1, time: 3 },
    ...[started(1), step(2, 2.5), step(3, 1.5)],
    { type: 'evaluation', atStep: 3, evalLoss: 1, time: 3 },
  ]);
  expect(curve.loss).toEqual([
    [1, 4],
    [2, 2.5],
    [3, 1.5],
  ]);
  expect(curve.discarded).toEqual([
    [
      [2, 3],
      [3, 2],
    ],
  ]);
  expect(curve).toMatchObject({ evalLoss: [[3, 1]], checkpoints: [], resumes: [1], steps: 3, discardedSteps: 2 });
});

test('a long curve keeps its highest and lowest losses, its ends and its gaps', () => {
  const losses = Array.from({ length: 100_000 }, (_, index) => step(index + 1, 1 + Math.sin(index)));
  losses[31_234] = step(31_235, 50);
  losses[77_777] = step(77_778, -50);
  losses[50_000] = step(50_001, null);
  const { loss, smoothed, learningRate, withoutLoss } = trainingCurve(losses);
  expect(loss).toContainEqual([31_235, 50]);
  expect(loss).toContainEqual([77_778, -50]);
  expect(loss).toContainEqual([50_001, null]);
  expect(withoutLoss).toBe(1);
  for (const line of [loss, smoothed, learningRate]) {
    expect(line.length).toBeLessThanOrEqual(3_000);
    expect(line.map(([at]) => at)).toEqual(line.map(([at]) => at).toSorted((a, b) => a - b));
  }
  expect(smoothed.at(0)?.[0]).toBe(1);
  expect(smoothed.at(-1)?.[0]).toBe(100_000);
});

test('the smoothed line begins at the first loss and passes gaps over', () => {
  const { smoothed } = trainingCurve([step(1, 2), step(2, null), step(3, 2), step(4, 2)]);
  expect(smoothed).toEqual([
    [1, 2],
    [3, 2],
    [4, 2],
  ]);
});

test('what is no finite number never comes into the page', () => {
  const odd = { ...step(2, Infinity), learningRate: NaN } as TrainingEvent;
  expect(JSON.stringify(trainingCurve([step(1, 1), odd]).loss)).toBe('[[1,1],[2,null]]');
});

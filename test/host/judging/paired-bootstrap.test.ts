import { describe, expect, test } from '@jest/globals';
import {
  describeInterval,
  isDistinguishable,
  pairedBootstrap,
  type PairedBootstrap,
} from '../../../host/judging/paired-bootstrap.ts';

const repeat = (value: number, times: number) => Array.from({ length: times }, () => value);

/** Rows that the candidate alone, the champion alone and both get right. */
function compare(wins: number, losses: number, ties: number): PairedBootstrap {
  const candidate = [...repeat(1, wins), ...repeat(0, losses), ...repeat(1, ties)];
  const champion = [...repeat(0, wins), ...repeat(1, losses), ...repeat(1, ties)];
  return pairedBootstrap(candidate, champion) as PairedBootstrap;
}

test('it counts wins, losses and ties', () => {
  expect(compare(30, 10, 60)).toMatchObject({
    ...{ meanDifference: 0.2, rows: 100, resamples: 10_000 },
    ...{ wins: 30, losses: 10, ties: 60 },
  });
});

test.each([
  [30, 10, 60],
  [5, 45, 150],
  [400, 380, 220],
])('its interval over %d wins, %d losses and %d ties is that of the normal approximation', (wins, losses, ties) => {
  const { low, high, meanDifference, rows } = compare(wins, losses, ties);
  const standardError = Math.sqrt(((wins + losses) / rows - meanDifference ** 2) / rows);
  expect(Math.abs(low - (meanDifference - 1.96 * standardError))).toBeLessThan(0.012);
  expect(Math.abs(high - (meanDifference + 1.96 * standardError))).toBeLessThan(0.012);
});

test('all ties are a difference of exactly none', () => {
  const { meanDifference, low, high } = compare(0, 0, 50);
  expect([meanDifference, low, high]).toEqual([0, 0, 0]);
  expect(isDistinguishable(compare(0, 0, 50))).toBe(false);
});

test('one row, or the same difference on all, has no width', () => {
  expect(pairedBootstrap([0.75], [0.25])).toMatchObject({ meanDifference: 0.5, low: 0.5, high: 0.5 });
  expect(pairedBootstrap(repeat(1, 40), repeat(0, 40))).toMatchObject({ low: 1, high: 1 });
});

test('no rows are no comparison, and lists of two lengths an error', () => {
  expect(pairedBootstrap([], [])).toBeNull();
  expect(() => pairedBootstrap([1], [1, 0])).toThrow(RangeError);
});

test('the same scores give the same interval, exchanged models its mirror image', () => {
  const scores = (times: number) => Array.from({ length: 97 }, (_, index) => ((index * times) % 13) / 13);
  const once = pairedBootstrap(scores(5), scores(7)) as PairedBootstrap;
  expect(pairedBootstrap(scores(5), scores(7))).toEqual(once);
  expect(pairedBootstrap(scores(5), scores(7), { seed: 2 })).not.toEqual(once);
  const mirrored = pairedBootstrap(scores(7), scores(5)) as PairedBootstrap;
  expect(mirrored.low).toBeCloseTo(-once.high, 12);
  expect(mirrored.high).toBeCloseTo(-once.low, 12);
});

describe('whether a difference is distinguishable', () => {
  test.each([
    [30, 10, 60, true],
    [10, 30, 60, true],
    [12, 10, 78, false],
    [6, 0, 194, true],
    [5, 0, 0, false], // a coin gives five alike one time in sixteen
    [0, 4, 196, false],
  ])('of %d wins, %d losses and %d ties: %s', (wins, losses, ties, wanted) => {
    const comparison = compare(wins, losses, ties);
    expect(isDistinguishable(comparison)).toBe(wanted);
    expect(describeInterval(comparison)).toContain(`${wanted ? ', ' : 'not '}distinguishable from none`);
  });
});

describe('its interval holds the true mean in about 95 of 100 experiments', () => {
  const rightOrWrong = (uniform: number) => (uniform < 0.3 ? 1 : uniform < 0.4 ? -1 : 0);
  const skewed = (uniform: number) => uniform ** 2 - 0.5;
  test.each<[string, (uniform: number) => number, number, number]>([
    ['right or wrong, 100 rows', rightOrWrong, 0.2, 100],
    ['right or wrong, 400 rows', rightOrWrong, 0.2, 400],
    ['skewed, 100 rows', skewed, 1 / 3 - 0.5, 100],
  ])('%s', (_, differenceOf, mean, rows) => {
    const experiments = 300;
    const random = uniforms();
    let held = 0;
    for (let experiment = 0; experiment < experiments; experiment++) {
      const differences = Array.from({ length: rows }, () => differenceOf(random()));
      const options = { resamples: 500, seed: experiment };
      const { low, high } = pairedBootstrap(differences, repeat(0, rows), options) as PairedBootstrap;
      if (low <= mean && mean <= high) held++;
    }
    expect(held / experiments).toBeGreaterThan(0.91);
    expect(held / experiments).toBeLessThan(0.98);
  });

  /** Another generator than the one under test: Park and Miller's, 48271 modulo 2³¹ − 1. */
  function uniforms(): () => number {
    let state = 20260101;
    return () => (state = (state * 48271) % 2147483647) / 2147483647;
  }
});

test('ten thousand rows are compared in seconds', () => {
  const scores = (times: number) => Array.from({ length: 10_000 }, (_, index) => (index * times) % 3);
  const started = process.cpuUsage();
  pairedBootstrap(scores(1), scores(2));
  expect(process.cpuUsage(started).user / 1e6).toBeLessThan(5); // about 1 s
});

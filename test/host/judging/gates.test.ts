import { describe, expect, test } from '@jest/globals';
import { judge, type Gates, type JudgedCandidate } from '../../../host/judging/gates.ts';
import { pairedBootstrap } from '../../../host/judging/paired-bootstrap.ts';
import type { Score } from '../../../host/judging/scoring.ts';

const GIB = 2 ** 30;

function candidate(changes: Partial<JudgedCandidate> = {}): JudgedCandidate {
  const shares = { score: 0.9, exactMatch: 0.9, anls: 0.95, fields: null };
  return {
    rows: 50,
    metric: 'exact',
    ...shares,
    latencyP50Ms: 100,
    latencyP95Ms: 250,
    memoryBytes: 4 * GIB,
    ...changes,
  };
}

function check(gates: Partial<Gates>, found = candidate(), champion: Score | null = null, comparison = compare(0, 0)) {
  const verdict = judge({ maxRegression: 0.02, ...gates }, found, champion, champion === null ? null : comparison);
  return { verdict, of: (gate: keyof Gates) => verdict.checks.find((each) => each.gate === gate) };
}

/** A candidate that is better and worse on so many of 50 rows. */
function compare(wins: number, losses: number) {
  const rows = Array.from({ length: 50 }, (_, index) => index);
  return pairedBootstrap(
    rows.map((row) => (row >= wins && row < wins + losses ? 0 : 1)),
    rows.map((row) => (row < wins ? 0 : 1)),
  );
}

describe('a limit', () => {
  test.each<[keyof Gates, number, Partial<JudgedCandidate>, boolean, string]>([
    ['minScore', 0.9, {}, true, 'its exact match is 0.9 on 50 held-out rows, at least the 0.9 that is wanted'],
    ['minScore', 0.91, {}, false, 'its exact match is 0.9 on 50 held-out rows, below the 0.91 that is wanted'],
    ['minScore', 0.3, { score: 0.1 + 0.2 - 2e-16, metric: 'own' }, true, 'its own scorer is 0.3'],
    ['maxLatencyP95Ms', 250, {}, true, '95 % of its answers came within 250 ms; at most 250 ms is allowed'],
    ['maxLatencyP95Ms', 249, {}, false, 'at most 249 ms is allowed'],
    ['maxMemoryGiB', 4, {}, true, 'it takes 4 GiB of memory; at most 4 GiB is allowed'],
    ['maxMemoryGiB', 4, { memoryBytes: 4.5 * GIB }, false, 'it takes 4.5 GiB of memory'],
  ])('%s of %d: %j passes: %s', (gate, limit, changes, passed, sentence) => {
    const { of, verdict } = check({ [gate]: limit }, candidate(changes));
    expect(of(gate)).toMatchObject({ limit, passed, sentence: expect.stringContaining(sentence) });
    expect(verdict.passed).toBe(passed);
  });

  test('that is not set is not judged', () => {
    expect(check({}).verdict).toEqual({
      passed: true,
      checks: [
        { gate: 'maxRegression', found: null, limit: 0.02, passed: true, sentence: 'no champion to compare with' },
      ],
      headline: 'passed maxRegression',
    });
  });
});

describe('a gate that cannot be judged is not passed', () => {
  const none = candidate({ rows: 0, score: 0, latencyP50Ms: null, latencyP95Ms: null, memoryBytes: null });
  test.each<[keyof Gates, number, string]>([
    ['minScore', 0, "it can't be judged: no rows were held out to score it on"],
    ['maxLatencyP95Ms', 1000, "it can't be judged: no rows were held out to time it on"],
    ['maxMemoryGiB', 80, "it can't be judged: the memory it takes could not be measured"],
  ])('%s', (gate, limit, sentence) => {
    const { of, verdict } = check({ [gate]: limit }, none);
    expect(of(gate)).toEqual({ gate, found: null, limit, passed: false, sentence });
    expect(verdict).toMatchObject({ passed: false, headline: `failed ${gate}: ${sentence}` });
  });

  test('nor is maxRegression with a champion that was asked nothing', () => {
    const verdict = judge({ maxRegression: 0.02 }, none, candidate(), null);
    expect(verdict).toMatchObject({
      passed: false,
      checks: [{ found: null, sentence: expect.stringContaining('no rows') }],
    });
  });
});

describe('against the champion', () => {
  test.each([
    [0, 1, 0.02, true, "its mean score is 0.02 below the champion's on the same 50 rows (95 % interval -0.06"],
    [1, 1, 0, true, "its mean score is the same as the champion's"],
    [9, 1, 0, true, "its mean score is 0.16 above the champion's on the same 50 rows (95 % interval 0.04"],
    [0, 2, 0.02, false, 'not distinguishable from none); at most 0.02 below is allowed'],
    [0, 20, 0.02, false, ', distinguishable from none)'],
    [0, 20, 1, true, 'at most 1 below is allowed'],
  ])('%d better and %d worse with a limit of %d passes: %s', (wins, losses, maxRegression, passed, sentence) => {
    const { of } = check({ maxRegression }, candidate(), candidate(), compare(wins, losses));
    expect(of('maxRegression')).toMatchObject({ passed, sentence: expect.stringContaining(sentence) });
    expect(of('maxRegression')?.found).toBeCloseTo((losses - wins) / 50, 12);
  });

  test.each([
    [0.96, 0.98],
    [0.7, 0.72],
    [0.1, 0.12],
  ])('a mean of %d against %d is a drop of exactly the limit, whatever binary fractions make of it', (mine, its) => {
    const comparison = pairedBootstrap([mine], [its]);
    expect(check({ maxRegression: 0.02 }, candidate(), candidate(), comparison).verdict.passed).toBe(true);
    expect(check({ maxRegression: 0.0199 }, candidate(), candidate(), comparison).verdict.passed).toBe(false);
  });
});

test('the headline names every gate that failed, with its sentence, and they come in one order', () => {
  const gates = { maxMemoryGiB: 1, maxLatencyP95Ms: 1, minScore: 0.5 };
  const { verdict } = check(gates);
  expect(verdict.checks.map(({ gate }) => gate)).toEqual([
    'minScore',
    'maxRegression',
    'maxLatencyP95Ms',
    'maxMemoryGiB',
  ]);
  expect(verdict.headline).toBe(
    'failed maxLatencyP95Ms: 95 % of its answers came within 250 ms; at most 1 ms is allowed; maxMemoryGiB: it takes 4 GiB of memory; at most 1 GiB is allowed',
  );
});

import { describe, expect, test } from '@jest/globals';
import { anls, matches, percentile, rowScore, rowScores, scoreRows } from '../../../host/judging/scoring.ts';

test.each([
  ['ABC-12', 'ABC-12', true, true],
  [' ABC-12\n', 'ABC-12', true, true],
  ['The badge says ABC-12.', 'ABC-12', false, true],
  ['abc-12', 'ABC-12', false, false],
  ['ABC-1', 'ABC-12', false, false],
  ['', 'ABC-12', false, false],
  ['', '', true, true],
  ['e\u0301', '\u00e9', true, true],
  ['发票 42', '发票 42', true, true],
])('%j for %j: exactly right %s, contained %s', (answer, expected, exact, contains) => {
  expect(matches(answer, expected, 'exact')).toBe(exact);
  expect(matches(answer, expected, 'contains')).toBe(contains);
});

test.each([
  ['kitten', 'sitting', 1 - 3 / 7],
  ['flaw', 'lawn', 0],
  ['', '', 1],
  ['', 'abc', 0],
  ['abc', '', 0],
  ['abc', 'abc', 1],
  [' abc ', 'abc', 1],
  ['abc', 'xyz', 0],
  ['abcdef', 'abc', 0],
  ['abcde', 'abc', 0.6],
  ['👍ab', 'ab', 1 - 1 / 3],
  ['e\u0301', '\u00e9', 1],
  ['ABC-12', 'abc-12', 1],
  ['发票号码', '发票号', 0.75],
  ['x'.repeat(100_000), 'ABC-12', 0],
])('the ANLS of %j and %j is %d, whichever is asked first', (answer, expected, wanted) => {
  expect(anls(answer, expected)).toBeCloseTo(wanted, 12);
  expect(anls(expected, answer)).toBeCloseTo(wanted, 12);
});

test('an answer of a thousand characters is compared in a moment', () => {
  const started = process.cpuUsage();
  const text = 'abcdefghij'.repeat(100);
  expect(anls(`${text}!`, text)).toBeCloseTo(1 - 1 / 1001, 12);
  expect(process.cpuUsage(started).user / 1e6).toBeLessThan(1);
});

test.each([
  [[], 0.5, null],
  [[7], 0.95, 7],
  [[3, 1, 2], 0.5, 2],
  [[4, 1, 3, 2], 0.5, 2],
  [Array.from({ length: 100 }, (_, index) => 100 - index), 0.95, 95],
  [[1, 2, 3], 0, 1],
  [[1, 2, 3], 1, 3],
  [[10, 9, 100], 0.5, 10],
])('of %j the share %d lies below %s', (values, share, wanted) => {
  expect(percentile(values, share)).toBe(wanted);
});

const row = (answer: string, expected: string, latencyMs = 1) => ({ answer, expected, latencyMs });

test.each([
  ['exact', 'ABC-1', 0],
  ['contains', 'it is ABC-12', 1],
  ['anls', 'ABC-1', 1 - 1 / 6],
  ['fields', 'ABC-12', 1],
  ['fields', 'ABC-1', 0],
] as const)('by %s %j scores %d for ABC-12', (metric, answer, wanted) => {
  expect(rowScore(answer, 'ABC-12', metric)).toBeCloseTo(wanted, 12);
});

describe('the figures of a model', () => {
  const rows = [
    row('{"a": 1, "b": "x"}', '{"a": 1, "b": "y"}', 30),
    row('{"a": 2}', '{"a": 1, "b": "y", "c": [true]}', 10),
    row('yes', 'yes', 20),
  ];

  test('hold every metric, the chosen one as the score', () => {
    expect(scoreRows(rows, 'fields')).toEqual({
      rows: 3,
      metric: 'fields',
      score: (0.5 + 0 + 1) / 3,
      exactMatch: 1 / 3,
      anls: expect.any(Number),
      fields: { accuracy: 0.25, rows: 2, byField: { a: 0.5, b: 0, 'c[]': 0 } },
      latencyP50Ms: 20,
      latencyP95Ms: 30,
    });
    expect(scoreRows(rows, 'exact').score).toBeCloseTo(1 / 3, 12);
  });

  test('have no fields where no expected answer has any', () => {
    expect(scoreRows([row('{"a": 1}', 'yes'), row('x', '[1]'), row('x', '{}')], 'exact').fields).toBeNull();
  });

  test('of no rows are zero, and no latency', () => {
    const none = { rows: 0, score: 0, exactMatch: 0, anls: 0, fields: null, latencyP50Ms: null, latencyP95Ms: null };
    expect(scoreRows([], 'anls')).toEqual({ ...none, metric: 'anls' });
  });

  test("take the own scorer's numbers as they are, and miss one that is not there", () => {
    const own = [0.2, 0.6].map((score) => ({ ...row('a', 'b'), own: score }));
    expect(rowScores(own, 'own')).toEqual([0.2, 0.6]);
    expect(scoreRows(own, 'own')).toMatchObject({ metric: 'own', score: 0.4, exactMatch: 0 });
    expect(() => scoreRows([...own, row('a', 'b')], 'own')).toThrow('row 3');
  });

  test('of many fields over ten thousand rows are there in seconds', () => {
    const many = Array.from({ length: 10_000 }, (_, id) => row(`{"id": ${id}, "x": "a"}`, `{"id": ${id}, "x": "b"}`));
    const started = process.cpuUsage();
    expect(scoreRows(many, 'fields')).toMatchObject({ score: 0.5, fields: { byField: { id: 1, x: 0 } } });
    expect(process.cpuUsage(started).user / 1e6).toBeLessThan(5);
  });
});

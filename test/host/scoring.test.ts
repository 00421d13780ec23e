import { expect, test } from '@jest/globals';
import { matches, percentile, similarity } from '../../host/scoring.ts';

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
  ['flaw', 'lawn', 1 - 2 / 4],
  ['', '', 1],
  ['', 'abc', 0],
  ['abc', '', 0],
  ['abc', 'abc', 1],
  [' abc ', 'abc', 1],
  ['abc', 'xyz', 0],
  ['abcdef', 'abc', 0.5],
  ['👍a', 'a', 0.5],
  ['e\u0301', '\u00e9', 1],
])('%j is as like %j as %d, whichever is asked first', (answer, expected, wanted) => {
  expect(similarity(answer, expected)).toBeCloseTo(wanted, 12);
  expect(similarity(expected, answer)).toBeCloseTo(wanted, 12);
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

import { expect, test } from '@jest/globals';
import { paddedLength, rowLengths } from '../../../host/planning/row-lengths.ts';

const figures = {
  ...{ mean: 20, max: 40, total: 80, answers: 30, pictures: 32, shortestPrompt: 8 },
  lengths: [
    [10, 2, 2],
    [20, 1, 6],
    [40, 1, 20],
  ] as [number, number, number][],
};

test('a row of a micro-batch is as long as the longest of it, over all micro-batches', () => {
  const rows = rowLengths(4, figures, 2048);
  const all = [10, 10, 20, 40];
  const pairs = all.flatMap((a) => all.map((b) => Math.max(a, b)));
  expect(paddedLength(rows, 1)).toBeCloseTo(20);
  expect(paddedLength(rows, 2)).toBeCloseTo(pairs.reduce((sum, each) => sum + each, 0) / pairs.length);
  expect(paddedLength(rows, 500)).toBeCloseTo(40);
});

test('logits are computed at most from the shortest prompt to the end of the longest row', () => {
  expect(rowLengths(4, figures, 2048)).toMatchObject({ longest: 40, answerSpan: 32, meanPictureTokens: 8 });
});

test('nothing is longer than cutoff_len', () => {
  const rows = rowLengths(4, figures, 15);
  expect(rows.longest).toBe(15);
  expect(paddedLength(rows, 1)).toBeCloseTo(12.5);
});

test('rows whose tokens were not counted are taken to be as long as they may be', () => {
  expect(rowLengths(7, null, 512)).toMatchObject({ rows: 7, longest: 512, answerSpan: 512 });
});

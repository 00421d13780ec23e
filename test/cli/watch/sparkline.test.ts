import { expect, test } from '@jest/globals';
import { sparkline } from '../../../cli/watch/sparkline.ts';

test.each<[string, number[], number, string]>([
  ['rises from the least to the greatest', [0, 1, 2, 3, 4, 5, 6, 7], 8, '▁▂▃▄▅▆▇█'],
  ['shows means of stretches where there is less room than values', [8, 6, 4, 2, 1, 1], 3, '█▃▁'],
  ['is flat for values that are all the same', [2, 2, 2], 8, '▁▁▁'],
  ['passes over what is no number', [NaN, 1, Infinity, 2], 8, '▁█'],
  ['is empty without values', [], 8, ''],
])('%s', (_, values, width, line) => {
  expect(sparkline(values, width)).toBe(line);
});

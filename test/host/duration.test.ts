import { expect, test } from '@jest/globals';
import { durationText } from '../../host/duration.ts';

test.each([
  [0, '0 s'],
  [0.42, '0.4 s'],
  [9.96, '10 s'],
  [59.4, '59 s'],
  [59.6, '1 min'],
  [185, '3 min 5 s'],
  [7800, '2 h 10 min'],
  [7200, '2 h'],
  [273_700, '3 d 4 h'],
])('%d seconds are %s', (seconds, text) => {
  expect(durationText(seconds)).toBe(text);
});

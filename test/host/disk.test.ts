import { expect, test } from '@jest/globals';
import { formatBytes } from '../../host/disk.ts';

test.each([
  [0, '0 B'],
  [512, '512 B'],
  [1024, '1 KiB'],
  [1536, '1.5 KiB'],
  [2.7 * 1024 ** 2, '2.7 MiB'],
  [8.8764 * 1024 ** 3, '8.88 GiB'],
  [24_564 * 1024 ** 2, '24 GiB'],
  [3 * 1024 ** 5, '3070 TiB'],
])('%d bytes read %j', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

import { expect, test } from '@jest/globals';
import { join } from 'node:path';
import { formatBytes, freeDiskBytes } from '../../host/disk.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

test('where a folder will be made there is as much room as where it will be made in', () => {
  const folder = newFolder();
  const there = freeDiskBytes(folder);
  expect(there).toBeGreaterThan(0);
  expect(Math.abs(freeDiskBytes(join(folder, 'runs/not/yet')) - there)).toBeLessThan(1024 ** 3);
});

test('a path that is nowhere lies on the root', () => {
  expect(freeDiskBytes('/nonexistent/folder')).toBeGreaterThan(0);
});

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

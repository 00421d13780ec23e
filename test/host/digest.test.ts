import { expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { digestOfFile, digestOfValue } from '../../host/digest.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

test('the order of keys, at any depth, does not change a digest; anything else does', () => {
  const digest = digestOfValue({ a: { b: 1, c: [1, 2] }, d: null });
  expect(digestOfValue({ d: null, a: { c: [1, 2], b: 1 } })).toBe(digest);
  const others = [
    { a: { b: 1, c: [2, 1] }, d: null },
    { a: { b: 1, c: [1, 2] } },
    { a: { b: '1', c: [1, 2] }, d: null },
  ];
  for (const other of others) expect(digestOfValue(other)).not.toBe(digest);
});

test("a file's digest is what sha256sum says", async () => {
  const file = join(newFolder(), 'file');
  writeFileSync(file, 'abc');
  expect(await digestOfFile(file)).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
});

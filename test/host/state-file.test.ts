import { expect, test } from '@jest/globals';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readJson, writeJson, writeWhole } from '../../host/state-file.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

test('a reader beside a hundred writers never sees half a file', async () => {
  const file = join(newFolder(), 'state.json');
  const value = (number: number) => ({ number, filling: String(number).repeat(5000) });
  await writeJson(file, value(0));
  const writing = Promise.all(Array.from({ length: 100 }, (_, number) => writeJson(file, value(number))));
  let done = false;
  void writing.then(() => (done = true));
  while (!done) {
    const seen = await readJson<ReturnType<typeof value>>(file);
    expect(seen).toEqual(value(seen?.number ?? -1));
  }
});

test('writing makes the folders above and leaves nothing else behind', async () => {
  const folder = newFolder();
  await writeWhole(join(folder, 'a/b/file'), 'text');
  expect(readFileSync(join(folder, 'a/b/file'), 'utf8')).toBe('text');
  expect(readdirSync(join(folder, 'a/b'))).toEqual(['file']);
});

test('a write that fails keeps the old content and leaves no temporary file', async () => {
  const folder = newFolder();
  mkdirSync(join(folder, 'taken'));
  writeFileSync(join(folder, 'taken/old'), 'old');
  await expect(writeWhole(join(folder, 'taken'), 'new')).rejects.toThrow();
  expect(readFileSync(join(folder, 'taken/old'), 'utf8')).toBe('old');
  expect(readdirSync(folder)).toEqual(['taken']);
});

test('a file that is not there reads as undefined; one that is no JSON is named', async () => {
  const file = join(newFolder(), 'state.json');
  expect(await readJson(file)).toBeUndefined();
  writeFileSync(file, '{"half":');
  await expect(readJson(file)).rejects.toThrow(`${file} is not JSON`);
});

test('state files can be read by others on the host', async () => {
  const file = join(newFolder(), 'state.json');
  await writeJson(file, {});
  expect(statSync(file).mode & 0o444).toBe(0o444 & ~process.umask());
});

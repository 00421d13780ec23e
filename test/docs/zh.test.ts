import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { runProgram, type ProgramResult } from '../../host/subprocess.ts';

let folder: string;
beforeAll(() => void (folder = mkdtempSync(join(tmpdir(), 'temper-readme-'))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function copyPages(): void {
  mkdirSync(join(folder, 'docs'), { recursive: true });
  for (const page of ['README', 'docs/tutorial'])
    for (const name of [`${page}.md`, `${page}.zh-CN.md`]) copyFileSync(join(checkout, name), join(folder, name));
}

async function stamp(root: string, ...options: string[]): Promise<ProgramResult> {
  return runProgram(process.execPath, [join(checkout, 'scripts/stamp-zh.mjs'), '--root', root, ...options]);
}

test('the Chinese pages render the English ones as they stand', async () => {
  expect((await stamp(checkout, '--check')).stderr).toBe('');
});

test.each<[string, 'README.md' | 'README.zh-CN.md', string | RegExp, string, RegExp]>([
  ['a sentence that has changed', 'README.md', 'The swap loses no request', 'The swap loses few requests', /go over/i],
  ['a command', 'README.md', 'npx temper doctor my-model ', 'npx temper doctor your-model ', /lacks this block/],
  ['a figure', 'README.zh-CN.md', '6.9 s', '9.6 s', /only the Chinese has the figure: 9\.6/],
  ['a link', 'README.md', '(docs/hosts.md)', '(docs/security.md)', /lacks a link to: docs\/security\.md/],
  [
    'an option in the text',
    'README.zh-CN.md',
    '`evaluate.gates`',
    '`evaluate.gate`',
    /lacks this code: `evaluate\.gates`/,
  ],
  ['a section', 'README.md', '## Measured', '## More\n\n## Measured', /has \d+ sections, the English page/],
  ['a row of a table', 'README.zh-CN.md', /\| \[报告\].*\n/, '', /lacks a row of a table/],
])('%s in one of the two only is found', async (_, page, from, to, says) => {
  copyPages();
  const text = readFileSync(join(folder, page), 'utf8');
  writeFileSync(join(folder, page), text.replace(from, to));
  const { exitCode, stderr } = await stamp(folder, '--check');
  expect(stderr).toMatch(says);
  expect(exitCode).toBe(1);
});

test('new stamps are written for a changed text, and not for one that is out of step', async () => {
  copyPages();
  const english = readFileSync(join(folder, 'README.md'), 'utf8');
  writeFileSync(join(folder, 'README.md'), english.replace('the run goes on from where it was', 'it goes on'));
  expect((await stamp(folder)).exitCode).toBe(0);
  expect((await stamp(folder, '--check')).exitCode).toBe(0);
  writeFileSync(join(folder, 'README.md'), english.replace('(docs/hosts.md)', '(docs/security.md)'));
  const before = readFileSync(join(folder, 'README.zh-CN.md'), 'utf8');
  expect((await stamp(folder)).exitCode).toBe(1);
  expect(readFileSync(join(folder, 'README.zh-CN.md'), 'utf8')).toBe(before);
});

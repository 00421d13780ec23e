import { beforeAll, expect, test } from '@jest/globals';
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import type { RunDirectory } from '../../host/run-directory.ts';
import { runProgram, type ProgramResult } from '../../host/subprocess.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { beginRun, endRun, leaveEvents, resumedTraining } from '../support/reported-run.ts';

let home: string;
let run: RunDirectory;

beforeAll(async () => {
  home = newFolder();
  run = await beginRun(home);
  leaveEvents(run, resumedTraining(30, 10));
});

test('it writes the report anew, as the run is now, and prints where', async () => {
  expect(await report('first')).toMatchObject({ exitCode: 0, stdout: run.report, stderr: '' });
  expect(readFileSync(run.report, 'utf8')).toMatch(/first <span class="badge[^>]*>broken off/);
  await endRun(run, 'finished');
  const { stdout } = await report('first', '--json');
  expect(JSON.parse(stdout)).toEqual({ run: 'first', path: run.report });
  expect(readFileSync(run.report, 'utf8')).toMatch(/first <span class="badge[^>]*>finished/);
});

test('--out writes it elsewhere and leaves the run as it is', async () => {
  const out = join(newFolder(), 'new/page.html');
  rmSync(run.report, { force: true });
  expect((await report('first', '--out', out)).stdout).toBe(out);
  expect(readFileSync(out, 'utf8')).toContain('30 of 30 steps');
  expect(() => readFileSync(run.report)).toThrow();
});

test('a run that is not there is one sentence that names those that are', async () => {
  for (const [name, said] of [
    ['second', /^ConfigError: There is no run second in .*runs, which has first\. /],
    ['../first', /^ConfigError: The Workflow ID "\.\.\/first" can't name a run's folder/],
  ] as const) {
    const { exitCode, stdout, stderr } = await report(name);
    expect([exitCode, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(said);
    expect(stderr.split('\n')).toHaveLength(1);
  }
});

test('--open hands the page to the browser that the desktop has', async () => {
  const opened = join(newFolder(), 'opened');
  const { exitCode } = await withOpener(`echo "$1" > ${opened}`);
  expect(exitCode).toBe(0);
  expect(readFileSync(opened, 'utf8').trim()).toBe(`file://${run.report}`);
});

test.each([
  ['an opener that finds none', 'echo "no method available for opening it" >&2; exit 3', 'no method available'],
  ['no opener', null, 'xdg-open'],
])('with --open and without a browser (%s) the page is written, and it is said where', async (_, script, said) => {
  const { exitCode, stdout, stderr } = await withOpener(script);
  expect([exitCode, stdout]).toEqual([1, run.report]);
  expect(stderr).toContain(said);
  expect(stderr).toMatch(/^HostError: No browser could be started here .* open file:\/\/.*report\.html/);
});

/** `temper report first --open` where xdg-open is this script, or missing. */
async function withOpener(script: string | null): Promise<ProgramResult> {
  const folder = join(newFolder(), 'bin');
  mkdirSync(folder);
  if (script !== null) {
    writeFileSync(join(folder, 'xdg-open'), `#!/bin/sh\n${script}\n`);
    chmodSync(join(folder, 'xdg-open'), 0o755);
  }
  return reportWith({ PATH: `${folder}:${dirname(process.execPath)}:/nowhere` }, 'first', '--open');
}

async function report(...args: string[]): Promise<ProgramResult> {
  return reportWith({}, ...args);
}

async function reportWith(env: Record<string, string>, ...args: string[]): Promise<ProgramResult> {
  const program =
    "import('./dist/cli/main.js').then(({ main }) => main(['node', 'temper', 'report', ...process.argv.slice(1)]))";
  return runProgram(process.execPath, ['-e', program, '--', ...args], {
    cwd: checkout,
    env: { TEMPER_HOME: home, ...env },
  });
}

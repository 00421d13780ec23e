import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { ApplicationFailure } from '@temporalio/common';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Activities } from '../../../activities/index.ts';
import type { RunSnapshot } from '../../../cli/watch/run-snapshot.ts';
import { startEmbeddedServer, stopEmbeddedServer } from '../../../cli/embedded-server.ts';
import { checkout } from '../../../host/checkout.ts';
import { freePort } from '../../../host/ports.ts';
import { runProgram, type ProgramResult } from '../../../host/subprocess.ts';
import { quickActivities } from '../../support/activities.ts';
import { startServer, withWorkers } from '../../support/temporal.ts';

// `temper start`, `watch` and `runs` as programs, against a real server; the stages are quick.
jest.setTimeout(120_000);

let env: TestWorkflowEnvironment;
let home: string;
beforeAll(async () => {
  env = await startServer();
  home = mkdtempSync(join(tmpdir(), 'temper-watch-'));
});
afterAll(async () => {
  await env.teardown();
  rmSync(home, { recursive: true, force: true });
});

const program = join(checkout, 'cli/temper.mjs');
const environment = (address = env.address) => ({ TEMPER_HOME: home, TEMPORAL_ADDRESS: address });

async function temper(...args: string[]): Promise<ProgramResult> {
  return runProgram(process.execPath, [program, ...args], { env: environment() });
}

/** As `temper`, in a terminal. */
async function temperInTerminal(args: string, more: Record<string, string> = {}): Promise<ProgramResult> {
  const command = `stty cols 90 rows 30; exec ${process.execPath} ${program} ${args}`;
  return runProgram('script', ['-qefc', command, '/dev/null'], { env: { ...environment(), TERM: 'xterm', ...more } });
}

function withQuick<T>(work: () => Promise<T>, changes: Partial<Activities> = {}): Promise<T> {
  return withWorkers(env, quickActivities([], changes), work);
}

const rejects: Partial<Activities> = {
  evaluateModel: async (input) => {
    const result = await quickActivities([]).evaluateModel(input);
    return { ...result, verdict: { ...result.verdict, passed: false, headline: 'minScore failed' } };
  },
};
const fails: Partial<Activities> = {
  validateDataset: async () => {
    throw ApplicationFailure.nonRetryable('rows.json: row 3 has no picture.', 'DatasetError');
  },
};

test.each<[string, Partial<Activities>, number, RegExp]>([
  ['that is deployed', {}, 0, /deployModel +done +[\d.]+ s +up\ndeployed\n[^]*chat page +http:\/\/127\.0\.0\.1:7860\n/],
  ['whose model is rejected', rejects, 3, /deployModel +skipped +minScore failed\nrejected\nwhy +minScore failed\n/],
  ['that fails', fails, 1, /validateDataset +failed[^]*\nfailed\nrows\.json: row 3 has no picture\.\n/],
])('a run %s is followed line by line, and its end is the exit code', async (name, changes, code, lines) => {
  const runName = name.replaceAll(' ', '-');
  const done = await withQuick(() => temper('start', 'demo', '--name', runName, '--watch'), changes);
  expect(done.stdout).toMatch(lines);
  expect(done.exitCode).toBe(code);
});

test('runs are listed, the newest first, with how they ended', async () => {
  const { stdout } = await temper('runs');
  expect(stdout).toMatch(/^run +state +stage +started +took +score +model\nthat-fails +failed[^]*\nthat-is-deployed +/);
  const listed = JSON.parse((await temper('runs', '--json', '--limit', '1')).stdout) as { runName: string }[];
  expect(listed.map(({ runName }) => runName)).toEqual(['that-fails']);
});

test('--json is a line for each change, the last one with the result', async () => {
  const done = await withQuick(() => temper('watch', 'that-is-deployed', '--json'));
  const lines = done.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as RunSnapshot);
  expect(lines.at(-1)).toMatchObject({ status: 'COMPLETED', result: { outcome: 'deployed' }, failure: null });
});

describe('in a terminal', () => {
  test('the view is drawn in color; with NO_COLOR in none', async () => {
    const colored = await withQuick(() => temperInTerminal('watch that-is-deployed'));
    expect(colored.stdout).toContain('\x1b[32m✔\x1b[39m deployModel');
    const plain = await withQuick(() => temperInTerminal('watch that-is-deployed', { NO_COLOR: '1' }));
    expect(plain.stdout).toContain('✔ deployModel');
    expect(plain.stdout).not.toMatch(/\x1b\[\d+m/); // eslint-disable-line no-control-regex
  });

  test('a terminal that can do nothing gets lines', async () => {
    const dumb = await withQuick(() => temperInTerminal('watch that-is-deployed', { TERM: 'dumb' }));
    expect(dumb.stdout).not.toMatch(/\x1b\[[0-9?]*[A-LhlJK]/); // eslint-disable-line no-control-regex
  });
});

test('a server that goes away and comes back is waited for', async () => {
  const ports = [await freePort(), await freePort()] as const;
  const folder = mkdtempSync(join(tmpdir(), 'temper-outage-'));
  let server = await startEmbeddedServer(folder, ...ports);
  const start = await runProgram(process.execPath, [program, 'start', 'demo', '--name', 'outlives', '--json'], {
    env: environment(server.address),
  });
  expect(JSON.parse(start.stdout)).toMatchObject({ runName: 'outlives' });
  const watching = runProgram(process.execPath, [program, 'watch', 'outlives'], { env: environment(server.address) });
  await sleep(4_000);
  await stopEmbeddedServer(server);
  await sleep(8_000);
  server = await startEmbeddedServer(folder, ...ports);
  await runProgram(join(checkout, 'trainer/.venv/bin/temporal'), ['workflow', 'terminate', '-w', 'outlives'], {
    env: environment(server.address),
  });
  const { stdout, exitCode } = await watching;
  await stopEmbeddedServer(server);
  rmSync(folder, { recursive: true, force: true });
  expect(stdout).toMatch(/waits for a worker[^]*does not answer, asking again[^]*answers again[^]*terminated\n/);
  expect(exitCode).toBe(1);
});

test.each<[string[], number, RegExp]>([
  [
    ['start', 'demo', '--set', 'epochs'],
    1,
    /^ConfigError: --set epochs: takes PATH=VALUE, such as train\.num_train_epochs=1/,
  ],
  [['start', 'demo', '--set', 'train.x=[1'], 1, /^ConfigError: --set train\.x: "\[1" is no YAML/],
  [['start', 'demo', '--continue-from', 'nothing'], 1, /takes base or champion/],
  [['watch', 'nothing'], 1, /knows no run nothing/],
  [['logs', 'nothing'], 1, /There is no run nothing in/],
])('temper %j ends with one sentence', async (args, code, message) => {
  const { exitCode, stderr } = await temper(...args);
  expect([exitCode, stderr]).toEqual([code, expect.stringMatching(message)]);
});

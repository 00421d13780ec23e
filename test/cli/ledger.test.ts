import { beforeAll, expect, test } from '@jest/globals';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { causes } from '../../host/goodput/account.ts';
import type { RunGoodput } from '../../host/goodput/run-goodput.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { runProgram, type ProgramResult } from '../../host/subprocess.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { leaveTraining } from '../support/goodput-run.ts';

interface Printed {
  runs: Record<string, RunGoodput>;
  total: Pick<RunGoodput, 'seconds' | 'wallSeconds'>;
}

let home: string;

beforeAll(async () => {
  home = newFolder();
  await leaveTraining(home, 'first', 7);
  await leaveTraining(home, 'second', 12);
  openRunDirectory(home, 'untrained');
});

test('over all runs each has a row, and the total is their sum', async () => {
  const { runs, total } = JSON.parse((await ledger('--json')).stdout) as Printed;
  expect(Object.keys(runs)).toEqual(['first', 'second']);
  for (const cause of causes)
    expect(total.seconds[cause]).toBeCloseTo((runs.first?.seconds[cause] ?? 0) + (runs.second?.seconds[cause] ?? 0), 6);
  expect(Object.values(total.seconds).reduce((sum, seconds) => sum + seconds, 0)).toBeCloseTo(total.wallSeconds, 6);

  const lines = (await ledger()).stdout.split('\n');
  expect(lines.map((line) => line.split(' ')[0])).toEqual(['run', 'first', 'second', 'all']);
  expect(lines[0]).toMatch(/seconds +goodput +productive +queue +start-up +preprocessing +repeated .* idle +MFU/);
  expect(new Set(lines.map((line) => line.length)).size).toBe(1);
});

test('of one run each cause and each start is shown', async () => {
  const { runs } = JSON.parse((await ledger('first', '--json')).stdout) as Printed;
  const { stdout } = await ledger('first');
  const { seconds, startUps } = runs.first!;
  expect(stdout).toMatch(new RegExp(`^productive +${seconds.productive.toFixed(1)} `, 'm'));
  expect(stdout.match(/^(start|resume after step \d+) /gm)).toHaveLength(startUps.length);
  expect((await ledger('untrained')).stdout).toBe('untrained has not trained yet.');
});

test('a run that is not there is one sentence, and so is a name that cannot be a folder', async () => {
  for (const name of ['third', '../first']) {
    const { exitCode, stderr, stdout } = await ledger(name);
    expect(exitCode).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^ConfigError: There is no run .*; `temper ledger` lists them\.$/);
  }
});

test('on a host that has never trained it says so', async () => {
  const { stdout, exitCode } = await ledgerIn(newFolder());
  expect([stdout, exitCode]).toEqual(['Nothing has been trained here.', 0]);
});

async function ledger(...args: string[]): Promise<ProgramResult> {
  return ledgerIn(home, ...args);
}

async function ledgerIn(folder: string, ...args: string[]): Promise<ProgramResult> {
  const env = { TEMPER_HOME: folder };
  return runProgram(process.execPath, [join(checkout, 'cli/temper.mjs'), 'ledger', ...args], { env });
}

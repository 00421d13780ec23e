import { expect, test } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeProgram } from '../../cli/main.ts';
import { checkout } from '../../host/checkout.ts';
import { runProgram, type ProgramResult } from '../../host/subprocess.ts';

async function temper(...args: string[]): Promise<ProgramResult> {
  return runProgram(process.execPath, [join(checkout, 'cli/temper.mjs'), ...args]);
}

test('`temper schema` prints the schema that the YAMLs name', async () => {
  const { exitCode, stdout } = await temper('schema');
  expect(exitCode).toBe(0);
  expect(`${stdout}\n`).toBe(await readFile(join(checkout, 'configs/schema.json'), 'utf8'));
});

test("`temper validate demo --json` finds nothing wrong with the demo's cards", async () => {
  const { exitCode, stdout } = await temper('validate', 'demo', '--json');
  expect(exitCode).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ ok: true, rows: 560, kept: 560, problems: [] });
});

test('`temper plan` says how this host would train, and how a card that is not here would', async () => {
  const here = await temper('plan', 'demo', '--json');
  expect(JSON.parse(here.stdout)).toMatchObject({ gpus: 0, globalBatch: 16, prediction: { steps: 100, memory: null } });
  const { stdout } = await temper('plan', 'demo', '--gpu', 'V100', '--gpus', '2');
  expect(stdout).toMatch(/fp16: true +plan +compute capability 7 has no bf16/);
  expect(stdout).toMatch(/Memory: .* ± 15 % of 15.1 GiB/);
});

test.each<[string, string[], number, RegExp]>([
  [
    'a plan for an unknown card',
    ['plan', 'demo', '--gpu', 'RTX 9999'],
    1,
    /card RTX 9999 is not known; known are H200,/,
  ],

  ['a config that is not there', ['validate', 'dmeo'], 2, /dmeo.*demo/s],
  ['a deployment that is not there', ['undeploy', 'nothing'], 1, /DeploymentError: No deployment nothing/],
  ['an unknown command', ['trian'], 2, /unknown command 'trian'/],
  ['a base that is not there', ['merge', '/nowhere', '/nowhere', '/tmp/out'], 1, /\/nowhere/],
])('%s ends with one sentence and an exit code', async (_, args, code, message) => {
  const { exitCode, stderr } = await temper(...args);
  expect(exitCode).toBe(code);
  expect(stderr).toMatch(message);
  expect(stderr).not.toMatch(/^\s+at /m);
});

test('every command that tells something tells it as JSON, too', () => {
  const silent = ['up', 'down', 'worker', 'codec', 'demo', 'logs', 'schema', 'complete', 'dataset'];
  const without = makeProgram()
    .commands.filter(({ options }) => !options.some(({ long }) => long === '--json'))
    .map((command) => command.name());
  expect(without.sort()).toEqual(silent.sort());
});

test('configs and commands are completed', async () => {
  const { stdout } = await temper('complete', '--', 'plan', 'qwen3-vl-4b-l');
  expect(stdout.split('\n').map((line) => line.trim())).toEqual(['qwen3-vl-4b-lora', 'qwen3-vl-4b-lora-v100', ':4']);
  expect((await temper('complete', '--', 'wat')).stdout).toMatch(/^watch\tShow a run live/);
  expect((await temper('complete', 'bash')).stdout).toContain('# bash completion for temper');
});

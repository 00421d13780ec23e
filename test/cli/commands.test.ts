import { expect, test } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
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

test.each<[string, string[], number, RegExp]>([
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

import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { freePort } from '../../host/ports.ts';
import { identify, isAlive, stopTree, type ProcessIdentity } from '../../host/process-table.ts';
import { readJson } from '../../host/state-file.ts';
import { runProgram, startDetached } from '../../host/subprocess.ts';

// The README's Temporal CLI block, run line by line against a real `temper up`.
jest.setTimeout(180_000);

let home: string;
let env: Record<string, string>;
let up: ProcessIdentity;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'temper-readme-'));
  const [port, uiPort] = [await freePort(), await freePort()];
  env = { TEMPER_HOME: home, TEMPORAL_ADDRESS: `127.0.0.1:${port}` };
  const args = [join(checkout, 'cli/temper.mjs'), 'up', '--port', String(port), '--ui-port', String(uiPort)];
  up = identify(startDetached(process.execPath, args, join(home, 'up.log'), env)) as ProcessIdentity;
  while ((await readJson(join(home, 'up.json'))) === undefined) {
    if (!isAlive(up)) throw new Error(await readFile(join(home, 'up.log'), 'utf8'));
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
});

afterAll(async () => {
  await stopTree(up, 60_000);
  await rm(home, { recursive: true, force: true });
});

test("every line of the README's Temporal CLI section works as printed", async () => {
  const readme = await readFile(join(checkout, 'README.md'), 'utf8');
  const block = readme.match(/readme\.test\.ts\. -->\n```bash\n([\s\S]*?)```/)?.[1] ?? '';
  const [first, ...lines] = block.split('\n').filter((line) => line !== '');
  expect(first).toMatch(/^export PATH=/);
  expect(lines.length).toBeGreaterThanOrEqual(9);
  for (const line of lines) {
    const done = await runProgram('bash', ['-c', `${first}\n${line}`], { cwd: checkout, env });
    expect({ line, exitCode: done.exitCode, stderr: done.stderr }).toMatchObject({ line, exitCode: 0 });
    if (line.includes('query')) expect(done.stdout).toContain('checkEnvironment');
    if (line.includes('schedule describe')) expect(done.stdout).toContain('fineTune');
  }
});

test('a cancelled run ends as cancelled and leaves a report', async () => {
  const result = await runProgram(join(checkout, 'trainer/.venv/bin/temporal'), ['workflow', 'result', '-w', 'first'], {
    env,
  });
  expect(result.exitCode).not.toBe(0);
  const manifest = await readJson<{ outcome: string }>(join(home, 'runs/first/manifest.json'));
  expect(manifest?.outcome).toBe('cancelled');
});

test('`temper up` a second time for the same home says where the first one is', async () => {
  const again = await runProgram(process.execPath, [join(checkout, 'cli/temper.mjs'), 'up'], { env });
  expect(again.exitCode).toBe(1);
  expect(again.stderr).toContain(`already runs for ${home}: server ${env.TEMPORAL_ADDRESS}`);
});

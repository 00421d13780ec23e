#!/usr/bin/env node
// Records a release: its workflow code, which test/workflows/upgrade.test.ts starts runs on, and histories that
// test/workflows/replay.test.ts replays, each of a real run of the demo's model on a server, a worker and a home of their own
// (about five minutes):
//   node scripts/record-histories.mjs
import { Buffer } from 'node:buffer';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Client, Connection } from '@temporalio/client';
import { parse } from 'yaml';

const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const release = join(root, 'test/fixtures/releases', version);
const histories = join(release, 'histories');
mkdirSync(histories, { recursive: true });
cpSync(join(root, 'workflows'), join(release, 'workflows'), { recursive: true });
const temporal = join(root, 'trainer/.venv/bin/temporal');
const temper = join(root, 'cli/temper.mjs');
const home = mkdtempSync(join(tmpdir(), 'temper-histories-'));
const [port, uiPort] = ['7891', '7892'];
/** A worker calls itself by process and host, its sticky queue too. */
const ownIdentity = new RegExp(`\\d+@${hostname()}`, 'g');
const environment = { ...process.env, TEMPER_HOME: home, TEMPER_HOST_NAME: 'gpu-host' };

const up = spawn(process.execPath, [temper, 'up', '--port', port, '--ui-port', uiPort], {
  env: environment,
  stdio: 'inherit',
});
try {
  while (!existsSync(join(home, 'up.json'))) await sleep(200);
  const address = `127.0.0.1:${port}`;
  const client = new Client({ connection: await Connection.connect({ address }) });
  const run = async (workflowId, config) =>
    client.workflow.start('fineTune', { taskQueue: 'temper', workflowId, args: [{ config }] });

  await (await run('first', demo({}))).result();
  record(address, 'first', 'deployed');

  await (await run('second', demo({ evaluate: { gates: { maxLatencyP95Ms: 1 } } }))).result();
  record(address, 'second', 'rejected');

  const third = await run('third', demo({ train: { max_steps: 24 }, deploy: { approval: 'manual' } }));
  const isWaiting = ({ stages }) => stages.some(({ state }) => state === 'awaitingApproval');
  while (!isWaiting(await third.query('progress'))) await sleep(1000);
  await third.executeUpdate('approve', { args: [{ by: 'Zhang Wei', why: 'looked at twenty answers' }] });
  await third.result();
  record(address, 'third', 'approved');

  await client.workflow.execute('rollback', {
    ...{
      taskQueue: 'temper',
      workflowId: 'back',
      args: [{ deployment: 'demo', by: 'Zhang Wei', why: 'users complain' }],
    },
  });
  record(address, 'back', 'rollback');

  await (await run('fourth', { trian: {} })).result().catch(() => {});
  record(address, 'fourth', 'config-refused');
} finally {
  spawnSync(process.execPath, [temper, 'undeploy', 'demo'], { env: environment, stdio: 'inherit' });
  up.kill('SIGTERM');
  await new Promise((resolve) => up.once('exit', resolve));
  rmSync(home, { recursive: true, force: true });
}

/** The demo's config, shorter, with changes to its sections; on ports of its own. */
function demo({ train = {}, evaluate = {}, deploy = {} }) {
  const config = parse(readFileSync(join(root, 'configs/demo.yaml'), 'utf8'));
  return {
    ...config,
    train: { ...config.train, max_steps: 20, save_steps: 10, ...train },
    evaluate: { ...config.evaluate, ...evaluate },
    deploy: { ...config.deploy, bakeSeconds: 3, apiPort: 7893, pagePort: 7894, ...deploy },
  };
}

/** Keep a run's history, with paths as on no machine in particular. */
function record(address, workflowId, name) {
  const shown = execFileSync(
    temporal,
    ['workflow', 'show', '--workflow-id', workflowId, '--address', address, '-o', 'json'],
    {
      maxBuffer: 1e8,
    },
  );
  const neutral = JSON.stringify(JSON.parse(shown.toString()), withoutPaths, 2);
  writeFileSync(join(histories, `${name}.json`), `${neutral}\n`);
  console.log(`recorded ${name}`);
}

/** Payloads are base64; in them, as elsewhere, the checkout is /opt/temper and the home /var/lib/temper. */
function withoutPaths(key, value) {
  if (typeof value !== 'string') return value;
  if (key !== 'data') return neutralize(value);
  return Buffer.from(neutralize(Buffer.from(value, 'base64').toString())).toString('base64');
}

function neutralize(text) {
  return text.replaceAll(home, '/var/lib/temper').replaceAll(root, '/opt/temper').replaceAll(ownIdentity, '1@gpu-host');
}

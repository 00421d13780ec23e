import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  deploymentFolder,
  findDeployment,
  listDeployments,
  recordDeployment,
  stopDeployment,
  type ProcessDeployment,
} from '../../host/deployments.ts';
import { identify, isAlive } from '../../host/process-table.ts';
import type { ServedProcess } from '../../host/served-model.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

let home: string;
let sleepers: ChildProcess[] = [];

beforeEach(() => {
  home = newFolder();
});

afterEach(() => {
  for (const sleeper of sleepers) sleeper.kill('SIGKILL');
  sleepers = [];
});

test('a deployment is found by its name for as long as its API runs', async () => {
  const deployment = await deploy('demo');
  expect(await findDeployment(home, 'demo')).toEqual(deployment);
  expect(await findDeployment(home, 'other')).toBeUndefined();
  await stopDeployment(home, deployment);
  expect(await findDeployment(home, 'demo')).toBeUndefined();
  expect([isAlive(deployment.api), isAlive(deployment.page)]).toEqual([false, false]);
});

test('one whose API has died, or was of another boot, serves no more', async () => {
  const deployment = await deploy('demo');
  await recordDeployment(home, { ...deployment, api: { ...deployment.api, bootId: 'another boot' } });
  expect(await findDeployment(home, 'demo')).toBeUndefined();
});

test('all that serve are listed, and nothing else that lies there', async () => {
  expect(await listDeployments(home)).toEqual([]);
  const [first, second] = [await deploy('first'), await deploy('second')];
  mkdirSync(deploymentFolder(home, 'being-started'), { recursive: true });
  writeFileSync(join(home, 'deployments/notes.txt'), '');
  expect((await listDeployments(home)).map(({ name }) => name).sort()).toEqual(['first', 'second']);
  await stopDeployment(home, first);
  expect(await listDeployments(home)).toEqual([second]);
});

async function deploy(name: string): Promise<ProcessDeployment> {
  const model = { runName: 'run', modelDir: '/models/merged', modelDigest: 'digest' };
  const deployedAt = '2026-01-01T00:00:00.000Z';
  const deployment: ProcessDeployment = {
    runtime: 'process',
    name,
    ...model,
    api: served(),
    page: served(),
    deployedAt,
  };
  await recordDeployment(home, deployment);
  return deployment;
}

function served(): ServedProcess {
  const sleeper = spawn('sleep', ['600'], { detached: true, stdio: 'ignore' });
  sleepers.push(sleeper);
  const identity = identify(sleeper.pid ?? 0);
  if (identity === undefined) throw new Error('it has ended');
  return { ...identity, url: 'http://127.0.0.1:1', port: 1, logFile: '/dev/null' };
}

import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  findDeployment,
  listDeployments,
  recordDeployment,
  recordedDeployments,
  stopDeployment,
} from '../../../host/deployment/deployments.ts';
import { frontServes } from '../../../host/deployment/front.ts';
import { deploymentFolder, serverRuns, stopServer, type Server } from '../../../host/deployment/model-server.ts';
import { newFolder } from '../../fixtures/trainers/stand-in.ts';
import { deploy, releaseOf, stopAllServed } from '../../support/served.ts';

let home: string;
beforeEach(() => {
  home = newFolder();
});
afterEach(() => stopAllServed(home));

test('a deployment is found by its name until it is stopped, and leaves nothing running', async () => {
  const deployment = await deploy(releaseOf(home, 'one'));
  expect(await findDeployment(home, 'cards')).toEqual(deployment);
  expect(await findDeployment(home, 'other')).toBeUndefined();
  await stopDeployment(deployment);
  expect(await recordedDeployments(home)).toEqual([]);
  const servers = [deployment.champion.server as Server, deployment.pageServer];
  expect(await Promise.all(servers.map(serverRuns))).toEqual([false, false]);
  expect(await frontServes(deployment.front)).toBe(false);
});

test('one whose model has ended, or was of another boot, is recorded but serves no more', async () => {
  const deployment = await deploy(releaseOf(home, 'one'));
  const { champion } = deployment;
  const server = { ...(champion.server as Server), bootId: 'another boot' } as Server;
  await recordDeployment({ ...deployment, champion: { ...champion, server } });
  expect(await findDeployment(home, 'cards')).toBeUndefined();
  await recordDeployment(deployment);
  await stopServer(champion.server as Server);
  expect(await findDeployment(home, 'cards')).toBeUndefined();
  expect(await recordedDeployments(home)).toEqual([deployment]);
});

test('all that serve are listed, and nothing else that lies there', async () => {
  expect(await listDeployments(home)).toEqual([]);
  const deployment = await deploy(releaseOf(home, 'one'));
  mkdirSync(deploymentFolder(home, 'being-started'), { recursive: true });
  writeFileSync(join(home, 'deployments/notes.txt'), '');
  expect(await listDeployments(home)).toEqual([deployment]);
});

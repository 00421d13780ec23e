import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Endpoint } from './health.ts';
import { isAlive } from './process-table.ts';
import { containerServes, stopContainer, type ServedContainer } from './served-container.ts';
import { stopServed, type ServedProcess } from './served-model.ts';
import { readJson, writeJson } from './state-file.ts';

/** A model in service: `$TEMPER_HOME/deployments/<name>/current.json`. */
export type Deployment = ProcessDeployment | ContainerDeployment;

interface ServedModel {
  name: string;
  runName: string;
  modelDir: string;
  /** Stands for the served weights and files. */
  modelDigest: string;
  api: Endpoint;
  page: Endpoint;
  deployedAt: string;
}

/** Two processes on this host. */
export interface ProcessDeployment extends ServedModel {
  runtime: 'process';
  api: ServedProcess;
  page: ServedProcess;
}

/** One container of the host's engine. */
export interface ContainerDeployment extends ServedModel {
  runtime: 'docker';
  container: ServedContainer;
}

/** The folder of a deployment's record and logs. */
export function deploymentFolder(home: string, name: string): string {
  return join(home, 'deployments', name);
}

/** What serves under this name now; undefined when nothing is recorded or its API has ended. */
export async function findDeployment(home: string, name: string): Promise<Deployment | undefined> {
  const recorded = await readJson<Deployment>(recordFile(home, name));
  return recorded !== undefined && (await serves(recorded)) ? recorded : undefined;
}

/** All that serve now. */
export async function listDeployments(home: string): Promise<Deployment[]> {
  const entries = await readdir(join(home, 'deployments'), { withFileTypes: true }).catch(() => []);
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  const found = await Promise.all(names.map((name) => findDeployment(home, name)));
  return found.filter((deployment) => deployment !== undefined);
}

export async function recordDeployment(home: string, deployment: Deployment): Promise<void> {
  await writeJson(recordFile(home, deployment.name), deployment);
}

/** Take a deployment out of service: page first, then the API, then its record. */
export async function stopDeployment(home: string, deployment: Deployment): Promise<void> {
  if (deployment.runtime === 'docker') await stopContainer(deployment.container);
  else {
    await stopServed(deployment.page);
    await stopServed(deployment.api);
  }
  await rm(recordFile(home, deployment.name), { force: true });
}

async function serves(deployment: Deployment): Promise<boolean> {
  return deployment.runtime === 'docker' ? containerServes(deployment.container) : isAlive(deployment.api);
}

function recordFile(home: string, name: string): string {
  return join(deploymentFolder(home, name), 'current.json');
}

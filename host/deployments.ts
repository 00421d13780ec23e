import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isAlive } from './process-table.ts';
import { stopServed, type ServedProcess } from './served-model.ts';
import { readJson, writeJson } from './state-file.ts';

/** A model in service: `$TEMPER_HOME/deployments/<name>/current.json`. */
export interface Deployment {
  name: string;
  runName: string;
  modelDir: string;
  /** Stands for the served weights and files. */
  modelDigest: string;
  api: ServedProcess;
  page: ServedProcess;
  deployedAt: string;
}

/** The folder of a deployment's record and logs. */
export function deploymentFolder(home: string, name: string): string {
  return join(home, 'deployments', name);
}

/** What serves under this name now; undefined when nothing is recorded or its API has ended. */
export async function findDeployment(home: string, name: string): Promise<Deployment | undefined> {
  const recorded = await readJson<Deployment>(recordFile(home, name));
  return recorded !== undefined && isAlive(recorded.api) ? recorded : undefined;
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
  await stopServed(deployment.page);
  await stopServed(deployment.api);
  await rm(recordFile(home, deployment.name), { force: true });
}

function recordFile(home: string, name: string): string {
  return join(deploymentFolder(home, name), 'current.json');
}

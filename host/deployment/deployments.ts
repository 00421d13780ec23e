import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { frontServes, stopFront, type Front } from './front.ts';
import type { ChatRow } from '../chat-api.ts';
import type { Endpoint } from './health.ts';
import {
  deploymentFolder,
  serverRuns,
  stopModel,
  stopServer,
  type Model,
  type Place,
  type Server,
} from './model-server.ts';
import { whileLocked } from '../lock.ts';
import { readJson, writeJson } from '../state-file.ts';

/** A question whose right answer is known, asked to see that what serves is well. */
export interface GoldenQuestion extends ChatRow {
  answer: string;
}

/** All that is needed to serve a model again. */
export interface Release extends Model {
  place: Place;
  /** null when no held-out row was answered right. */
  golden: GoldenQuestion | null;
}

/** A release and what serves it. */
export interface ReleasedModel extends Release {
  /** null while it is stopped. */
  server: Server | null;
}

/** Where a deployment listens; port 0 is any free one. */
export interface Address {
  host: string;
  apiPort: number;
  pagePort: number;
}

/** A name under which a model serves: `$TEMPER_HOME/deployments/<name>/current.json`. */
export interface Deployment {
  home: string;
  name: string;
  /** As the config asked for it. */
  address: Address;
  /** The stable addresses. */
  api: Endpoint;
  page: Endpoint;
  front: Front;
  pageServer: Server;
  /** The model that requests go to. */
  champion: ReleasedModel;
  /** Set from the swap until the champion has proved itself; `previous` is what comes back if it doesn't. */
  swap: { previous: ReleasedModel | null; since: string; workflowId: string } | null;
  deployedAt: string;
}

/** Do `work` while nobody else on this host changes this deployment; waits for whoever does. */
export async function lockDeployment<T>(
  { home, name }: Pick<Deployment, 'home' | 'name'>,
  { signal, report = () => {} }: { signal: AbortSignal; report?: (details: Record<string, unknown>) => void },
  work: () => Promise<T>,
): Promise<T> {
  const onWait = () => report({ message: 'waiting for another run that works on this deployment' });
  return whileLocked(`deployment ${home} ${name}`, { signal, onWait }, work);
}

/** What is recorded under this name, whether or not it serves. */
export async function readDeployment(home: string, name: string): Promise<Deployment | undefined> {
  return readJson<Deployment>(recordFile(home, name));
}

/** What serves under this name now; undefined when nothing is recorded or it has ended. */
export async function findDeployment(home: string, name: string): Promise<Deployment | undefined> {
  const recorded = await readDeployment(home, name);
  return recorded !== undefined && (await serves(recorded)) ? recorded : undefined;
}

/** All that serve now. */
export async function listDeployments(home: string): Promise<Deployment[]> {
  const recorded = await recordedDeployments(home);
  const serving = await Promise.all(recorded.map(serves));
  return recorded.filter((_, index) => serving[index]);
}

/** All that are recorded, whether or not they serve. */
export async function recordedDeployments(home: string): Promise<Deployment[]> {
  const entries = await readdir(join(home, 'deployments'), { withFileTypes: true }).catch(() => []);
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  const recorded = await Promise.all(names.map((name) => readDeployment(home, name)));
  return recorded.filter((deployment) => deployment !== undefined);
}

export async function recordDeployment(deployment: Deployment): Promise<void> {
  await writeJson(recordFile(deployment.home, deployment.name), deployment);
}

/** Take a deployment out of service: page and addresses first, then the models, then its record. */
export async function stopDeployment(deployment: Deployment): Promise<void> {
  await stopServer(deployment.pageServer);
  await stopFront(deployment.front);
  const { champion, swap } = deployment;
  for (const model of [champion, ...(swap?.previous ? [swap.previous] : [])]) await stopReleased(model);
  await rm(recordFile(deployment.home, deployment.name), { force: true });
}

/** Stop what serves a model, whether or not it is written down. */
export async function stopReleased(model: ReleasedModel): Promise<void> {
  if (model.server !== null) await stopServer(model.server);
  await stopModel(model, model.place);
}

async function serves({ front, champion }: Deployment): Promise<boolean> {
  return champion.server !== null && (await serverRuns(champion.server)) && (await frontServes(front));
}

function recordFile(home: string, name: string): string {
  return join(deploymentFolder(home, name), 'current.json');
}

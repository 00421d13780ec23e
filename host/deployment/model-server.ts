import { join } from 'node:path';
import { digestOfValue } from '../digest.ts';
import { containerState } from '../docker.ts';
import { isAlive } from '../process-table.ts';
import {
  containerServes,
  removeApiContainers,
  startApiContainer,
  startPageContainer,
  stopContainer,
  type ContainerOwner,
  type ServedContainer,
} from './served-container.ts';
import { startApi, startPage, stopLeftover, stopServed, type ServedProcess } from './served-process.ts';
import type { ServingOptions } from './serving-options.ts';

/** A server of an API or a chat page that outlives the worker: a process or a container; on loopback. */
export type Server = ({ runtime: 'process' } & ServedProcess) | ({ runtime: 'docker' } & ServedContainer);

/** A model folder and how it is to be served. */
export interface Model {
  runName: string;
  modelDir: string;
  /** Stands for its weights and files. */
  modelDigest: string;
  serving: ServingOptions;
}

/** What runs a deployment's servers. */
export interface Place {
  /** `$TEMPER_HOME`. */
  home: string;
  /** The deployment's name, which is the model's in the API. */
  name: string;
  runtime: 'process' | 'docker';
  /** With runtime docker. */
  image: string;
  /** For tests: programs that serve instead of Python with serving/serve.py and serving/chat_page.py. */
  commands?: { api: string[]; page: string[] } | undefined;
}

/** The folder of a deployment's record, logs and history. */
export function deploymentFolder(home: string, name: string): string {
  return join(home, 'deployments', name);
}

/** Serve a model's API; returns when it has answered a question about a picture. What an attempt before has left is stopped. */
export async function startModel(model: Model, place: Place, signal: AbortSignal): Promise<Server> {
  const options = {
    ...model,
    name: place.name,
    folder: serverFolder(model, place),
    command: place.commands?.api,
    signal,
  };
  return place.runtime === 'docker'
    ? { runtime: 'docker', ...(await startApiContainer(options, ownerOf(place))) }
    : { runtime: 'process', ...(await startApi(options)) };
}

/** Stop whatever serves this model in this place, also what nothing has written down. */
export async function stopModel(model: Model, place: Place): Promise<void> {
  await stopLeftover(serverFolder(model, place), 'api');
  if (place.runtime === 'docker') await removeApiContainers(serverFolder(model, place), ownerOf(place));
}

/** Start the chat page for the API at this address. */
export async function startPageServer(
  apiUrl: string,
  apiKeyEnv: string | undefined,
  place: Place,
  signal: AbortSignal,
): Promise<Server> {
  const { home, name, commands } = place;
  const options = { apiUrl, name, apiKeyEnv, folder: join(deploymentFolder(home, name), 'page'), signal };
  return place.runtime === 'docker'
    ? { runtime: 'docker', ...(await startPageContainer(options, ownerOf(place))) }
    : { runtime: 'process', ...(await startPage({ ...options, command: commands?.page })) };
}

export async function serverRuns(server: Server): Promise<boolean> {
  return server.runtime === 'docker' ? containerServes(server) : isAlive(server);
}

/** Why a server isn't as it was started: it has ended, or its container had to be started again; undefined when it is. */
export async function serverProblem(server: Server): Promise<string | undefined> {
  if (server.runtime === 'process')
    return isAlive(server) ? undefined : `its server has ended; its log: ${server.logFile}`;
  const state = await containerState(server.containerId);
  if (state?.running !== true) return `its container has ended; its log: ${server.logFile}`;
  return state.restarts === 0 ? undefined : `its container has crashed; its log: ${server.logFile}`;
}

/** Stop a server; requests in flight are answered first. */
export async function stopServer(server: Server): Promise<void> {
  await (server.runtime === 'docker' ? stopContainer(server) : stopServed(server));
}

function ownerOf({ home, name, image }: Place): ContainerOwner {
  return { home, name, image };
}

function serverFolder(model: Model, place: Place): string {
  return join(deploymentFolder(place.home, place.name), 'servers', modelKey(model, place));
}

/** Whether two are one model of one run, served in one way. */
export function isSameModel(one: Model & { place: Place }, other: Model & { place: Place }): boolean {
  const decisive = ({ runName, modelDigest, serving, place: { runtime, image } }: Model & { place: Place }) =>
    digestOfValue({ runName, modelDigest, serving, runtime, image });
  return decisive(one) === decisive(other);
}

/** Names a model served in one way: a run's base and candidate don't share one, nor do a model and the same served otherwise. */
export function modelKey({ runName, modelDigest, serving }: Model, { runtime, image }: Place): string {
  return `${runName}-${modelDigest.slice(0, 12)}-${digestOfValue({ serving, runtime, image }).slice(0, 8)}`;
}

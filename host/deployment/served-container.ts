import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  containerLogs,
  containerState,
  containersWith,
  keepRunning,
  removeContainer,
  startContainer,
} from '../docker.ts';
import { TemperError } from '../errors.ts';
import { healthProblem, respondsProblem, type Endpoint } from './health.ts';
import { lastingFreePort } from '../ports.ts';
import type { ApiOptions, PageOptions } from './served-process.ts';
import { servingFlags } from './serving-options.ts';
import { lastLines } from '../subprocess.ts';

/** A container that serves something over HTTP on the host's loopback. */
export interface ServedContainer extends Endpoint {
  containerId: string;
  image: string;
  logFile: string;
}

/** Which containers are whose: found again by these, also after a crash. */
export interface ContainerOwner {
  home: string;
  /** The deployment's name. */
  name: string;
  image: string;
}

const READY_TIMEOUT_MS = 15 * 60_000;
const STOP_GRACE_SECONDS = 20;
/** The variable that holds the API's key inside a container. */
const KEY_VARIABLE = 'API_KEY';
/** The API's port inside its container. */
const API_PORT = 8000;

/** Serve a model folder's API from an image; returns when it has answered a question about a picture. */
export async function startApiContainer(
  { modelDir, modelDigest, runName, serving, name, folder, signal }: ApiOptions,
  owner: ContainerOwner,
): Promise<ServedContainer> {
  const port = await lastingFreePort();
  const args = [
    ...['--mount', `type=bind,source=${modelDir},target=/app/models,readonly`, '--shm-size', '16gb'],
    ...['--publish', `127.0.0.1:${port}:${API_PORT}`, ...(serving.cpu ? [] : ['--gpus', 'all'])],
    ...['--entrypoint', 'python', owner.image, '/app/serving/serve.py', '--model', '/app/models', '--name', name],
    ...['--run', runName, '--model-digest', modelDigest, '--host', '0.0.0.0', '--port', String(API_PORT)],
    ...['--published-on-loopback', ...servingFlags(serving), ...keyFlags(serving.apiKeyEnv)],
  ];
  const labels = { 'temper.role': 'api', 'temper.run': runName, 'temper.model-digest': modelDigest };
  return startServer({ owner, labels, args, port, folder, apiKeyEnv: serving.apiKeyEnv, signal }, (served) =>
    healthProblem(served.url, signal),
  );
}

/** The chat page from an image, on the host's network to reach the API's stable address; returns when it answers. */
export async function startPageContainer(
  { apiUrl, name, apiKeyEnv, folder, signal }: PageOptions,
  owner: ContainerOwner,
): Promise<ServedContainer> {
  const port = await lastingFreePort();
  const args = [
    ...['--network', 'host', '--entrypoint', 'python', owner.image, '/app/serving/chat_page.py', '--api', apiUrl],
    ...['--name', name, '--host', '127.0.0.1', '--port', String(port), ...keyFlags(apiKeyEnv)],
  ];
  return startServer({ owner, labels: { 'temper.role': 'page' }, args, port, folder, apiKeyEnv, signal }, (served) =>
    respondsProblem(served.url, signal),
  );
}

/** Whether a container still serves: it runs, or its restart policy is about to start it. */
export async function containerServes({ containerId }: { containerId: string }): Promise<boolean> {
  return (await containerState(containerId))?.running === true;
}

/** Stop a container and remove it; requests in flight are answered first. */
export async function stopContainer({ containerId }: { containerId: string }): Promise<void> {
  await removeContainer(containerId, STOP_GRACE_SECONDS);
}

/** Remove all containers of a deployment that have these labels, also those that nothing has written down. */
export async function removeContainersOf(owner: ContainerOwner, labels: Record<string, string>): Promise<void> {
  for (const id of await containersWith(allLabels(owner, labels))) await removeContainer(id, STOP_GRACE_SECONDS);
}

interface ServerOptions {
  owner: ContainerOwner;
  labels: Record<string, string>;
  args: string[];
  port: number;
  /** For the log of a container that failed. */
  folder: string;
  apiKeyEnv: string | undefined;
  signal: AbortSignal;
}

/** A container of the same labels that a crashed attempt has left is removed first; one that fails is removed, its log kept. */
async function startServer(
  { owner, labels, args, port, folder, apiKeyEnv, signal }: ServerOptions,
  problemOf: (served: ServedContainer) => Promise<string | undefined>,
): Promise<ServedContainer> {
  await removeContainersOf(owner, labels);
  signal.throwIfAborted();
  const key = apiKeyEnv === undefined ? undefined : (process.env[apiKeyEnv] ?? '');
  const containerId = await startContainer(
    [
      ...Object.entries(allLabels(owner, labels)).flatMap(([label, value]) => ['--label', `${label}=${value}`]),
      ...['--init', '--read-only', '--tmpfs', '/tmp', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges'],
      ...args,
    ],
    key === undefined ? {} : { [KEY_VARIABLE]: key },
  );
  const logFile = join(folder, `${labels['temper.role'] ?? 'container'}.log`);
  const served = { containerId, image: owner.image, port, url: `http://127.0.0.1:${port}`, logFile };
  try {
    await untilReady(served, problemOf, signal);
    await keepRunning(containerId);
    return served;
  } catch (error) {
    await mkdir(dirname(logFile), { recursive: true });
    await writeFile(logFile, `${await containerLogs(containerId)}\n`);
    await removeContainer(containerId, STOP_GRACE_SECONDS);
    signal.throwIfAborted();
    throw error;
  }
}

function allLabels({ home, name }: ContainerOwner, labels: Record<string, string>): Record<string, string> {
  return { 'temper.home': home, 'temper.deployment': name, ...labels };
}

function keyFlags(apiKeyEnv: string | undefined): string[] {
  return apiKeyEnv === undefined ? [] : ['--api-key-env', KEY_VARIABLE];
}

async function untilReady(
  served: ServedContainer,
  problemOf: (served: ServedContainer) => Promise<string | undefined>,
  signal: AbortSignal,
): Promise<void> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  let problem: string | undefined = 'it never answered';
  while (Date.now() < deadline) {
    const state = await containerState(served.containerId);
    if (state?.running !== true) {
      const log = lastLines(await containerLogs(served.containerId), 8);
      throw new TemperError(
        'DeploymentError',
        `The container of ${served.image} ended with exit code ${state?.exitCode ?? '?'}:\n${log}\nIts log: ${served.logFile}`,
      );
    }
    problem = await problemOf(served);
    if (problem === undefined) return;
    await sleep(500, undefined, { signal });
  }
  throw new TemperError('DeploymentError', `The container is not healthy: ${problem}\nIts log: ${served.logFile}`);
}

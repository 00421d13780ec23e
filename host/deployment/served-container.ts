import { readdir, readlink, realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
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
import { healthProblem, hopelessness, respondsProblem, type Endpoint } from './health.ts';
import { lastingFreePort } from '../ports.ts';
import type { ApiOptions, PageOptions } from './served-process.ts';
import { servingFlags } from './serving-options.ts';
import { lastLines, longRunningPython } from '../subprocess.ts';

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
/** Serve a model folder's API from an image; returns when it has answered a question about a picture. */
export async function startApiContainer(
  { modelDir, modelDigest, runName, serving, name, folder, signal }: ApiOptions,
  owner: ContainerOwner,
): Promise<ServedContainer> {
  const port = await lastingFreePort();
  const linked = await linkedFolders(modelDir);
  const args = [
    ...['--mount', `type=bind,source=${modelDir},target=/app/models,readonly`, '--shm-size', '16gb'],
    ...linked.flatMap((path) => ['--mount', `type=bind,source=${path},target=${path},readonly`]),
    // On the host's network a port is closed until the API listens, which HAProxy waits for; one that Docker publishes is open
    // before, and requests to it are lost.
    // vLLM loads what it compiles from /tmp.
    ...['--tmpfs', serving.backend === 'vllm' ? '/tmp:exec' : '/tmp'],
    ...['--network', 'host', '--health-cmd', healthCommand(port), ...(serving.cpu ? [] : ['--gpus', 'all'])],
    ...['--entrypoint', 'python', owner.image, '/app/serving/serve.py', '--model', '/app/models', '--name', name],
    ...['--run', runName, '--model-digest', modelDigest, '--host', '127.0.0.1', '--port', String(port)],
    ...[...servingFlags(serving), ...keyFlags(serving.apiKeyEnv)],
  ];
  const labels = allLabels(owner, {
    ...{ 'temper.role': 'api', 'temper.server': basename(folder) },
    ...{ 'temper.run': runName, 'temper.model-digest': modelDigest },
  });
  const logFile = logFileOf(folder, 'api');
  return startServer({ image: owner.image, labels, args, port, logFile, apiKeyEnv: serving.apiKeyEnv, signal }, (url) =>
    healthProblem(url, signal),
  );
}

/** The chat page from an image, on the host's network to reach the API's stable address; returns when it answers. */
export async function startPageContainer(
  { apiUrl, name, apiKeyEnv, folder, signal }: PageOptions,
  owner: ContainerOwner,
): Promise<ServedContainer> {
  const port = await lastingFreePort();
  const args = [
    ...['--tmpfs', '/tmp', '--network', 'host', '--no-healthcheck', '--entrypoint', 'python', owner.image],
    ...['/app/serving/chat_page.py', '--api', apiUrl, '--name', name],
    ...['--host', '127.0.0.1', '--port', String(port), ...keyFlags(apiKeyEnv)],
  ];
  const labels = allLabels(owner, { 'temper.role': 'page' });
  const logFile = logFileOf(folder, 'page');
  return startServer({ image: owner.image, labels, args, port, logFile, apiKeyEnv, signal }, (url) =>
    respondsProblem(url, signal),
  );
}

/** The folders outside a model's own that its links lead to: an overlay of a base has its weights there. */
async function linkedFolders(modelDir: string): Promise<string[]> {
  const own = await realpath(modelDir);
  const entries = await readdir(modelDir, { withFileTypes: true });
  const links = entries.filter((entry) => entry.isSymbolicLink()).map(({ name }) => join(modelDir, name));
  const targets = await Promise.all(
    links.map(async (link) => [resolve(modelDir, await readlink(link)), await realpath(link)]),
  );
  const folders = new Set(targets.flat().map((target) => dirname(target)));
  return [...folders].filter((folder) => folder !== own && folder !== modelDir);
}

/** Instead of the image's, which asks at the port that the API has there alone. */
function healthCommand(port: number): string {
  return `python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:${port}/health', timeout=33)"`;
}

/** Whether a container still serves: it runs, or its restart policy is about to start it. */
export async function containerServes({ containerId }: { containerId: string }): Promise<boolean> {
  return (await containerState(containerId))?.running === true;
}

/** Stop a container and remove it, its log kept; requests in flight are answered first. */
export async function stopContainer({ containerId, logFile }: ServedContainer): Promise<void> {
  await removeContainer(containerId, STOP_GRACE_SECONDS, logFile);
}

/** Remove the container that serves a model's API from this folder, its log kept, also one that nothing has written down. */
export async function removeApiContainers(folder: string, owner: ContainerOwner): Promise<void> {
  await removeContainersOf(allLabels(owner, { 'temper.server': basename(folder) }), logFileOf(folder, 'api'));
}

async function removeContainersOf(labels: Record<string, string>, logFile: string): Promise<void> {
  for (const id of await containersWith(labels)) await removeContainer(id, STOP_GRACE_SECONDS, logFile);
}

function logFileOf(folder: string, role: 'api' | 'page'): string {
  return join(folder, `${role}.log`);
}

interface ServerOptions {
  image: string;
  labels: Record<string, string>;
  args: string[];
  port: number;
  /** Gets a container's log when it is removed. */
  logFile: string;
  apiKeyEnv: string | undefined;
  signal: AbortSignal;
}

/** A container of the same labels that a crashed attempt has left is removed first, as is one that doesn't get ready. */
async function startServer(
  { image, labels, args, port, logFile, apiKeyEnv, signal }: ServerOptions,
  problemOf: (url: string) => Promise<string | undefined>,
): Promise<ServedContainer> {
  await removeContainersOf(labels, logFile);
  signal.throwIfAborted();
  const key: Record<string, string> = apiKeyEnv === undefined ? {} : { [KEY_VARIABLE]: process.env[apiKeyEnv] ?? '' };
  const confined = ['--init', '--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges'];
  try {
    const containerId = await startContainer(labels, [...confined, ...args], { ...longRunningPython, ...key });
    const served = { containerId, image, port, url: `http://127.0.0.1:${port}`, logFile };
    await untilReady(served, problemOf, signal);
    await keepRunning(containerId);
    return served;
  } catch (error) {
    await removeContainersOf(labels, logFile);
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
  problemOf: (url: string) => Promise<string | undefined>,
  signal: AbortSignal,
): Promise<void> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  const isHopeless = hopelessness();
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
    problem = await problemOf(served.url);
    if (problem === undefined) return;
    if (isHopeless(problem)) break;
    await sleep(500, undefined, { signal });
  }
  throw new TemperError('DeploymentError', `The container is not healthy: ${problem}\nIts log: ${served.logFile}`);
}

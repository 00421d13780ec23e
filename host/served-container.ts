import { writeFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  containerLogs,
  containerState,
  containersWith,
  keepRunning,
  publishedPort,
  removeContainer,
  startContainer,
} from './docker.ts';
import { TemperError } from './errors.ts';
import { healthProblem, type Endpoint } from './health.ts';
import { servingFlags, type ServingOptions } from './serving-options.ts';
import { lastLines } from './subprocess.ts';

/** A container that serves a model's API and chat page. */
export interface ServedContainer {
  id: string;
  image: string;
  api: Endpoint;
  page: Endpoint;
  logFile: string;
}

export interface ContainerOptions extends ServingOptions {
  image: string;
  /** The deployment's name, which is the model's in the API. */
  name: string;
  home: string;
  runName: string;
  modelDir: string;
  modelDigest: string;
  host: string;
  /** 0 for any free port. */
  apiPort: number;
  pagePort: number;
  /** For the log of a container that failed. */
  folder: string;
  signal: AbortSignal;
}

const READY_TIMEOUT_MS = 15 * 60_000;
const STOP_GRACE_SECONDS = 20;
/** Ports inside the image, see serving/Dockerfile. */
const API_PORT = 8000;
const PAGE_PORT = 7860;

/**
 * Serve a model folder from an image; returns when it has answered a question about a picture. Whatever an attempt before
 * has left of this deployment is removed first. On failure the container's log is kept and the container removed.
 */
export async function serveInContainer(options: ContainerOptions): Promise<ServedContainer> {
  const { name, home, image, folder, host, signal } = options;
  await removeLeftovers(home, name);
  signal.throwIfAborted();
  const key = options.apiKeyEnv === undefined ? undefined : (process.env[options.apiKeyEnv] ?? '');
  const id = await startContainer(runArguments(options), key === undefined ? {} : { API_KEY: key });
  const logFile = join(folder, 'container.log');
  try {
    const endpoint = async (inside: number): Promise<Endpoint> => {
      const port = await publishedPort(id, inside);
      return { port, url: `http://${address(host)}:${port}` };
    };
    const served = { id, image, api: await endpoint(API_PORT), page: await endpoint(PAGE_PORT), logFile };
    await untilHealthy(served, signal);
    await keepRunning(id);
    return served;
  } catch (error) {
    await mkdir(folder, { recursive: true });
    await writeFile(logFile, `${await containerLogs(id)}\n`);
    await removeContainer(id, STOP_GRACE_SECONDS);
    signal.throwIfAborted();
    throw error;
  }
}

/** Whether a container still serves: it runs, or its restart policy is about to start it. */
export async function containerServes({ id }: ServedContainer): Promise<boolean> {
  return (await containerState(id))?.running === true;
}

/** Stop a container and remove it; requests in flight are answered first. */
export async function stopContainer({ id }: ServedContainer): Promise<void> {
  await removeContainer(id, STOP_GRACE_SECONDS);
}

async function removeLeftovers(home: string, name: string): Promise<void> {
  for (const id of await containersWith({ 'temper.home': home, 'temper.deployment': name }))
    await removeContainer(id, STOP_GRACE_SECONDS);
}

function runArguments(options: ContainerOptions): string[] {
  const { name, home, runName, modelDir, modelDigest, host, apiPort, pagePort, image } = options;
  const labels = {
    'temper.home': home,
    'temper.deployment': name,
    'temper.run': runName,
    'temper.model-digest': modelDigest,
  };
  const publish = (port: number, inside: number) => [
    '--publish',
    `${address(host)}:${port === 0 ? '' : port}:${inside}`,
  ];
  return [
    ...Object.entries(labels).flatMap(([label, value]) => ['--label', `${label}=${value}`]),
    ...['--mount', `type=bind,source=${modelDir},target=/app/models,readonly`],
    ...['--read-only', '--tmpfs', '/tmp', '--shm-size', '16gb', '--cap-drop', 'ALL'],
    ...['--security-opt', 'no-new-privileges', ...(options.cpu ? [] : ['--gpus', 'all'])],
    ...[...publish(apiPort, API_PORT), ...publish(pagePort, PAGE_PORT), image],
    ...['--name', name, ...servingFlags(options)],
    // Without a key the schema lets `host` be loopback only.
    ...(options.apiKeyEnv === undefined ? ['--published-on-loopback'] : []),
  ];
}

async function untilHealthy(served: ServedContainer, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  let problem: string | undefined = 'it never answered';
  while (Date.now() < deadline) {
    const state = await containerState(served.id);
    if (state?.running !== true) {
      const log = lastLines(await containerLogs(served.id), 8);
      throw new TemperError(
        'DeploymentError',
        `The container of ${served.image} ended with exit code ${state?.exitCode ?? '?'}:\n${log}\nIts log: ${served.logFile}`,
      );
    }
    problem = await healthProblem(served.api.url, signal);
    if (problem === undefined) return;
    await sleep(500, undefined, { signal });
  }
  throw new TemperError('DeploymentError', `The model is not healthy: ${problem}\nIts log: ${served.logFile}`);
}

/** An address as `--publish` and URLs take it. */
function address(host: string): string {
  if (host === 'localhost') return '127.0.0.1';
  return host.includes(':') ? `[${host}]` : host;
}

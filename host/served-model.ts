import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkout, trainerPython } from './checkout.ts';
import { TemperError } from './errors.ts';
import { healthProblem, type Endpoint } from './health.ts';
import { identify, isAlive, stopTree, type ProcessIdentity } from './process-table.ts';
import { servingFlags, type ServingOptions } from './serving-options.ts';
import { readJson, writeJson } from './state-file.ts';
import { lastLines, longRunningPython, startDetached } from './subprocess.ts';

/** A process that serves something over HTTP and outlives the worker that started it. */
export interface ServedProcess extends ProcessIdentity, Endpoint {
  logFile: string;
}

export interface ApiOptions extends ServingOptions {
  modelDir: string;
  /** The model's name in the API. */
  name: string;
  host: string;
  /** 0 for any free port. */
  port: number;
  /** For the log and the ready file. */
  folder: string;
  signal: AbortSignal;
}

const READY_TIMEOUT_MS = 15 * 60_000;
const STOP_GRACE_MS = 20_000;

/** Serve a model folder by LLaMA-Factory's OpenAI-compatible API; returns when it has answered a question about a picture. */
export async function startApi(options: ApiOptions): Promise<ServedProcess> {
  const args = [
    ...['--model', options.modelDir, '--name', options.name, '--host', options.host, '--port', String(options.port)],
    ...servingFlags(options),
    ...(options.apiKeyEnv === undefined ? [] : ['--api-key-env', options.apiKeyEnv]),
  ];
  const api = await startServer('api', 'serving/serve.py', args, options);
  return untilStopped(api, options.signal, () => untilHealthy(api, options.signal));
}

export interface PageOptions {
  apiUrl: string;
  name: string;
  host: string;
  port: number;
  apiKeyEnv?: string | undefined;
  folder: string;
  signal: AbortSignal;
}

/** The chat page, a process of its own that talks to the API; returns when it listens. */
export async function startPage(options: PageOptions): Promise<ServedProcess> {
  const args = [
    ...['--api', options.apiUrl, '--name', options.name, '--host', options.host, '--port', String(options.port)],
    ...(options.apiKeyEnv === undefined ? [] : ['--api-key-env', options.apiKeyEnv]),
  ];
  return startServer('page', 'serving/chat_page.py', args, options);
}

/** Stop a served process; requests in flight are answered first. */
export async function stopServed(served: ServedProcess): Promise<void> {
  await stopTree(served, STOP_GRACE_MS);
}

interface ReadyFile {
  pid: number;
  port: number;
  url: string;
}

async function startServer(
  kind: string,
  script: string,
  args: string[],
  options: { folder: string; signal: AbortSignal },
): Promise<ServedProcess> {
  options.signal.throwIfAborted();
  await mkdir(options.folder, { recursive: true });
  const logFile = join(options.folder, `${kind}.log`);
  const readyFile = join(options.folder, `${kind}.ready.json`);
  const processFile = join(options.folder, `${kind}.process.json`);
  await stopLeftover(processFile);
  await rm(readyFile, { force: true });
  const pid = startDetached(
    trainerPython,
    [join(checkout, script), ...args, '--ready-file', readyFile],
    logFile,
    longRunningPython,
  );
  const identity = identify(pid);
  if (identity === undefined) throw await neverReady(kind, logFile);
  await writeJson(processFile, identity);
  const starting: ServedProcess = { ...identity, url: '', port: 0, logFile };
  return untilStopped(starting, options.signal, async () => {
    const deadline = Date.now() + READY_TIMEOUT_MS;
    while (isAlive(identity) && Date.now() < deadline) {
      const ready = await readJson<ReadyFile>(readyFile);
      if (ready !== undefined) return { ...starting, url: ready.url, port: ready.port };
      await sleep(100, undefined, { signal: options.signal });
    }
    throw await neverReady(kind, logFile);
  });
}

/** Stop what an attempt that died in the middle of a start left in this folder. */
async function stopLeftover(processFile: string): Promise<void> {
  const leftover = await readJson<ProcessIdentity>(processFile);
  if (leftover !== undefined) await stopTree(leftover, STOP_GRACE_MS);
}

async function untilHealthy(api: ServedProcess, signal: AbortSignal): Promise<ServedProcess> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  let problem: string | undefined = 'it never answered';
  while (isAlive(api) && Date.now() < deadline) {
    problem = await healthProblem(api.url, signal);
    if (problem === undefined) return api;
    await sleep(500, undefined, { signal });
  }
  throw new TemperError('DeploymentError', `The model is not healthy: ${problem}\nIts log: ${api.logFile}`);
}

/** Run `work`; whatever makes it fail, the process is stopped first, so that none is left behind unrecorded. */
async function untilStopped<T>(served: ServedProcess, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    await stopServed(served);
    signal.throwIfAborted();
    throw error;
  }
}

async function neverReady(kind: string, logFile: string): Promise<TemperError> {
  const log = await readFile(logFile, 'utf8').catch(() => '');
  return new TemperError('DeploymentError', `The ${kind} did not start:\n${lastLines(log, 8)}\nIts log: ${logFile}`);
}

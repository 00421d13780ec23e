import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkout, trainerPython, vllmCpuPython, vllmPython } from '../checkout.ts';
import { TemperError } from '../errors.ts';
import { healthProblem, hopelessness, type Endpoint } from './health.ts';
import { identify, isAlive, processesWith, stopTree, type ProcessIdentity } from '../process-table.ts';
import { servingFlags, type ServingOptions } from './serving-options.ts';
import { readJson } from '../state-file.ts';
import { lastLines, longRunningPython, startDetached } from '../subprocess.ts';

/** A process that serves something over HTTP on loopback and outlives the worker that started it. */
export interface ServedProcess extends ProcessIdentity, Endpoint {
  logFile: string;
}

export interface ApiOptions {
  modelDir: string;
  modelDigest: string;
  runName: string;
  serving: ServingOptions;
  /** The model's name in the API. */
  name: string;
  /** For the log and the ready file; a server that a crashed attempt has left in it is stopped first. */
  folder: string;
  /** For tests: the program that serves, instead of Python with `serving/serve.py`; it gets the same arguments. */
  command?: string[] | undefined;
  signal: AbortSignal;
}

const READY_TIMEOUT_MS = 15 * 60_000;
const STOP_GRACE_MS = 20_000;

/** Serve a model folder by LLaMA-Factory's OpenAI-compatible API; returns when it has answered a question about a picture. */
export async function startApi(options: ApiOptions): Promise<ServedProcess> {
  const { modelDir, name, serving, command } = options;
  const args = [
    ...['--model', modelDir, '--name', name, '--run', options.runName, '--model-digest', options.modelDigest],
    ...[...onLoopback, ...servingFlags(serving), ...keyFlags(serving.apiKeyEnv)],
  ];
  const api = await startServer(
    'api',
    command ?? [pythonFor(serving), join(checkout, 'serving/serve.py')],
    args,
    options,
  );
  return untilStopped(api, options.signal, () => untilHealthy(api, options.signal));
}

export interface PageOptions {
  apiUrl: string;
  name: string;
  apiKeyEnv?: string | undefined;
  folder: string;
  command?: string[] | undefined;
  signal: AbortSignal;
}

/** The chat page, a process of its own that talks to the API; returns when it listens. */
export async function startPage(options: PageOptions): Promise<ServedProcess> {
  const args = ['--api', options.apiUrl, '--name', options.name, ...onLoopback, ...keyFlags(options.apiKeyEnv)];
  return startServer('page', options.command ?? [trainerPython, join(checkout, 'serving/chat_page.py')], args, options);
}

const onLoopback = ['--host', '127.0.0.1', '--port', '0'];

function keyFlags(apiKeyEnv: string | undefined): string[] {
  return apiKeyEnv === undefined ? [] : ['--api-key-env', apiKeyEnv];
}

function pythonFor({ backend, cpu }: ServingOptions): string {
  if (backend !== 'vllm') return trainerPython;
  return cpu ? vllmCpuPython : vllmPython;
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
  kind: 'api' | 'page',
  [program = '', ...before]: string[],
  args: string[],
  options: { folder: string; signal: AbortSignal },
): Promise<ServedProcess> {
  options.signal.throwIfAborted();
  await mkdir(options.folder, { recursive: true });
  const logFile = join(options.folder, `${kind}.log`);
  const readyFile = readyFileOf(options.folder, kind);
  await stopLeftover(options.folder, kind);
  await rm(readyFile, { force: true });
  const pid = startDetached(program, [...before, ...args, '--ready-file', readyFile], logFile, longRunningPython);
  const identity = identify(pid);
  if (identity === undefined) throw await neverReady(kind, logFile);
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

/** Stop what was started in this folder, also by an attempt that died before it could write down whom it had started. */
export async function stopLeftover(folder: string, kind: 'api' | 'page'): Promise<void> {
  for (const leftover of processesWith(readyFileOf(folder, kind))) await stopTree(leftover, STOP_GRACE_MS);
}

function readyFileOf(folder: string, kind: 'api' | 'page'): string {
  return join(folder, `${kind}.ready.json`);
}

async function untilHealthy(api: ServedProcess, signal: AbortSignal): Promise<ServedProcess> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  const isHopeless = hopelessness();
  let problem: string | undefined = 'it never answered';
  while (isAlive(api) && Date.now() < deadline) {
    problem = await healthProblem(api.url, signal);
    if (problem === undefined) return api;
    if (isHopeless(problem)) break;
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

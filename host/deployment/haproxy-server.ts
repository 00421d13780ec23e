import { readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
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
import { addressKinds, configFile, frontendOf, haproxyArguments } from './haproxy-config.ts';
import { findHaproxy } from './haproxy-program.ts';
import { askHaproxy, haproxyListens, inFlight, slotsOf } from './haproxy-runtime.ts';
import { identify, isAlive, processesWith, stopTree, type ProcessIdentity } from '../process-table.ts';
import { lastLines, startDetached } from '../subprocess.ts';

/** A HAProxy that outlives the worker. */
export type Haproxy = ({ runtime: 'process' } & ProcessIdentity) | { runtime: 'docker'; containerId: string };

export interface HaproxyOptions {
  /** The deployment's name. */
  name: string;
  home: string;
  runtime: Haproxy['runtime'];
  /** With runtime docker: an image that has HAProxy. */
  image?: string | undefined;
  signal: AbortSignal;
}

const READY_TIMEOUT_MS = 30_000;
const DRAIN_MS = 20_000;
const END_GRACE_SECONDS = 2;

/** Start HAProxy on the configuration in `folder`; returns when it listens. On failure nothing of it is left but its log. */
export async function startHaproxy(options: HaproxyOptions, folder: string, logFile: string): Promise<Haproxy> {
  const start = options.runtime === 'docker' ? startInContainer : startProcess;
  return start(options, folder, logFile);
}

export async function haproxyRuns(haproxy: Haproxy): Promise<boolean> {
  return haproxy.runtime === 'docker' ? containerRuns(haproxy.containerId) : isAlive(haproxy);
}

/** Stop listening, finish requests in flight for some seconds, and end; those that are held are dropped. */
export async function stopHaproxy(haproxy: Haproxy, folder: string): Promise<void> {
  if (await haproxyRuns(haproxy)) await finishRequests(folder);
  await (haproxy.runtime === 'docker' ? removeContainers([haproxy.containerId]) : stopProcess(haproxy));
}

/** Stop what runs on the configuration in `folder` although nothing has written it down, as a crash leaves it. */
export async function stopUnrecorded(options: HaproxyOptions, folder: string): Promise<void> {
  if (options.runtime === 'docker') await removeContainers(await containersWith(labelsOf(options)));
  for (const found of processesWith(configFile(folder)).filter(isHaproxy)) await stopProcess(found);
}

/** SIGUSR1, HAProxy's own way to do that, would wait for idle clients too, and no longer tell what is in flight. */
async function finishRequests(folder: string): Promise<void> {
  const deadline = Date.now() + DRAIN_MS;
  try {
    await askHaproxy(
      folder,
      addressKinds.map((kind) => `shutdown frontend ${frontendOf(kind)}`),
    );
    while (Date.now() < deadline) {
      const slots = await Promise.all(addressKinds.map((kind) => slotsOf(folder, kind)));
      if (inFlight(slots.flat()) === 0) return;
      await sleep(50);
    }
  } catch {
    // It has just ended by itself, or hangs.
  }
}

async function startProcess(options: HaproxyOptions, folder: string, logFile: string): Promise<Haproxy> {
  const program = findHaproxy();
  if (program === undefined)
    throw new TemperError(
      'HostError',
      'deploy.runtime: process needs HAProxy, which this host does not have: sudo apt-get install haproxy.',
    );
  const identity = identify(startDetached(program.file, haproxyArguments(folder), logFile, program.env));
  if (identity === undefined) throw await processNeverReady(logFile);
  try {
    if (!(await untilAnswering(folder, () => isAlive(identity), options.signal)))
      throw await processNeverReady(logFile);
    return { runtime: 'process', ...identity };
  } catch (error) {
    await stopProcess(identity);
    options.signal.throwIfAborted();
    throw error;
  }
}

async function processNeverReady(logFile: string): Promise<TemperError> {
  return neverReady(await readFile(logFile, 'utf8').catch(() => ''), logFile);
}

async function startInContainer(options: HaproxyOptions, folder: string, logFile: string): Promise<Haproxy> {
  try {
    const containerId = await startContainer(labelsOf(options), containerArguments(options, folder));
    if (!(await untilAnswering(folder, () => containerRuns(containerId), options.signal)))
      throw neverReady(await containerLogs(containerId), logFile);
    await keepRunning(containerId);
    return { runtime: 'docker', containerId };
  } catch (error) {
    const ids = await containersWith(labelsOf(options));
    await writeFile(logFile, `${(await Promise.all(ids.map(containerLogs))).join('\n')}\n`);
    await removeContainers(ids);
    options.signal.throwIfAborted();
    throw error;
  }
}

function containerArguments(options: HaproxyOptions, folder: string): string[] {
  return [
    ...['--network', 'host', '--user', `${process.getuid?.() ?? 0}:${process.getgid?.() ?? 0}`],
    ...['--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges', '--no-healthcheck'],
    ...['--stop-signal', 'SIGTERM', '--mount', `type=bind,source=${folder},target=${folder}`],
    ...['--entrypoint', 'haproxy', options.image ?? '', ...haproxyArguments(folder)],
  ];
}

function labelsOf({ home, name }: HaproxyOptions): Record<string, string> {
  return { 'temper.home': home, 'temper.deployment': name, 'temper.role': 'front' };
}

async function containerRuns(id: string): Promise<boolean> {
  return (await containerState(id))?.running === true;
}

async function untilAnswering(
  folder: string,
  runs: () => boolean | Promise<boolean>,
  signal: AbortSignal,
): Promise<boolean> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while ((await runs()) && Date.now() < deadline) {
    if (await haproxyListens(folder)) return true;
    await sleep(50, undefined, { signal });
  }
  return false;
}

function neverReady(log: string, logFile: string): TemperError {
  return new TemperError('DeploymentError', `HAProxy did not start:\n${lastLines(log, 8)}\nIts log: ${logFile}`);
}

async function stopProcess(haproxy: ProcessIdentity): Promise<void> {
  await stopTree(haproxy, END_GRACE_SECONDS * 1000);
}

async function removeContainers(ids: string[]): Promise<void> {
  for (const id of ids) await removeContainer(id, END_GRACE_SECONDS);
}

/** Not the editor in which somebody looks at its configuration. */
function isHaproxy({ pid }: ProcessIdentity): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'haproxy';
  } catch {
    return false;
  }
}

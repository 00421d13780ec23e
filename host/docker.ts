import { appendFile, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { digestOfValue } from './digest.ts';
import { TemperError } from './errors.ts';
import { runProgram, type ProgramOptions } from './subprocess.ts';

/** What `docker inspect` says of a container. */
export interface ContainerState {
  running: boolean;
  exitCode: number;
  /** How often its restart policy has started it again. */
  restarts: number;
}

/** What a host's engine offers, or why it can't be asked. */
export type Engine = { reachable: true; version: string; hasGpus: boolean } | { reachable: false; reason: string };

const CHANGE_TIMEOUT_MS = 120_000;
const QUERY_TIMEOUT_MS = 20_000;

/** Ask the engine that DOCKER_HOST or the current context names. */
export async function askEngine(): Promise<Engine> {
  const result = await docker(['info', '--format', '{{json .}}'], { timeoutMs: QUERY_TIMEOUT_MS });
  const info = parse<{
    ServerVersion?: string;
    Runtimes?: object;
    DiscoveredDevices?: unknown[];
    ServerErrors?: string[];
  }>(result.stdout);
  if (info?.ServerVersion === undefined || info.ServerVersion === '')
    return { reachable: false, reason: result.startError ?? info?.ServerErrors?.[0] ?? result.stderr };
  const hasGpus = 'nvidia' in (info.Runtimes ?? {}) || (info.DiscoveredDevices ?? []).length > 0;
  return { reachable: true, version: info.ServerVersion, hasGpus };
}

/** An image's id; undefined when the engine hasn't got it. */
export async function imageId(image: string): Promise<string | undefined> {
  const { exitCode, stdout } = await docker(['image', 'inspect', '--format', '{{.Id}}', image], {
    timeoutMs: QUERY_TIMEOUT_MS,
  });
  return exitCode === 0 ? stdout.trim() : undefined;
}

/** Run a program of an image to its end, without network or GPU; returns its output. Raises DeploymentError when it fails. */
export async function runInImage(image: string, entrypoint: string, args: string[]): Promise<string> {
  const isolated = ['run', '--rm', '--network', 'none', '--read-only', '--entrypoint', entrypoint];
  return (await change([...isolated, image, ...args])).trim();
}

/**
 * Start a container in the background; returns its id. Its name is made from its labels, so that there is no second one with
 * the same. `env` reaches it through names alone, so that no value is an argument. Its log is of limited size.
 */
export async function startContainer(
  labels: Record<string, string>,
  args: string[],
  env: Record<string, string> = {},
): Promise<string> {
  const { 'temper.deployment': deployment, 'temper.role': role } = labels;
  const named = ['--name', `temper-${deployment}-${role}-${digestOfValue(labels).slice(0, 8)}`];
  const labelled = Object.entries(labels).flatMap(([label, value]) => ['--label', `${label}=${value}`]);
  const variables = Object.keys(env).flatMap((name) => ['--env', name]);
  return (
    await change(['run', '--detach', '--log-driver', 'local', ...named, ...labelled, ...variables, ...args], { env })
  ).trim();
}

/** A container's state; undefined when there is none of this id. */
export async function containerState(id: string): Promise<ContainerState | undefined> {
  const format = '{"running":{{.State.Running}},"exitCode":{{.State.ExitCode}},"restarts":{{.RestartCount}}}';
  const { exitCode, stdout } = await docker(['inspect', '--type', 'container', '--format', format, id], {
    timeoutMs: QUERY_TIMEOUT_MS,
  });
  return exitCode === 0 ? parse<ContainerState>(stdout) : undefined;
}

/** A container's labels; undefined when there is none of this name or id. */
export async function containerLabels(id: string): Promise<Record<string, string> | undefined> {
  const args = ['inspect', '--type', 'container', '--format', '{{json .Config.Labels}}', id];
  const { exitCode, stdout, stderr, startError } = await docker(args, { timeoutMs: QUERY_TIMEOUT_MS });
  if (exitCode === 0) return parse<Record<string, string> | null>(stdout) ?? {};
  if (/no such/i.test(stderr)) return undefined;
  throw new TemperError('DeploymentError', `docker inspect failed: ${startError ?? stderr}`);
}

/** Ids of all containers, running or not, that have every one of these labels. */
export async function containersWith(labels: Record<string, string>): Promise<string[]> {
  const filters = Object.entries(labels).flatMap(([name, value]) => ['--filter', `label=${name}=${value}`]);
  return (await change(['ps', '--all', '--quiet', '--no-trunc', ...filters])).split('\n').filter((id) => id !== '');
}

/** Have the engine start a container again whenever it ends by itself, or the host has rebooted. */
export async function keepRunning(id: string): Promise<void> {
  await change(['update', '--restart', 'unless-stopped', id]);
}

/** What a container has printed. */
export async function containerLogs(id: string): Promise<string> {
  const { stdout, stderr } = await docker(['logs', '--tail', '2000', id], { timeoutMs: QUERY_TIMEOUT_MS });
  return `${stdout}\n${stderr}`.trim();
}

/**
 * Stop a container, with time for requests in flight, add what it has printed to `logFile`, and remove it; one that is gone
 * already is no error.
 */
export async function removeContainer(id: string, graceSeconds: number, logFile?: string): Promise<void> {
  await docker(['stop', '--time', String(graceSeconds), id], { timeoutMs: CHANGE_TIMEOUT_MS });
  if (logFile !== undefined) await keepLogs(id, logFile);
  const { exitCode, stderr } = await docker(['rm', '--force', '--volumes', id], { timeoutMs: CHANGE_TIMEOUT_MS });
  if (exitCode !== 0 && !/no such container/i.test(stderr))
    throw new TemperError('DeploymentError', `The container ${id} could not be removed: ${stderr}`);
}

async function keepLogs(id: string, logFile: string): Promise<void> {
  await mkdir(dirname(logFile), { recursive: true });
  await appendFile(logFile, `${await containerLogs(id)}\n`);
}

async function change(args: string[], options: ProgramOptions = {}): Promise<string> {
  const { exitCode, stdout, stderr, startError } = await docker(args, { timeoutMs: CHANGE_TIMEOUT_MS, ...options });
  if (exitCode === 0) return stdout;
  throw new TemperError('DeploymentError', `docker ${args[0]} failed: ${startError ?? stderr}`);
}

function docker(args: string[], options: ProgramOptions) {
  return runProgram('docker', args, options);
}

function parse<T>(text: string): T | undefined {
  try {
    return JSON.parse(text) as T;
  } catch {
    return undefined;
  }
}

import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TemperError } from '../errors.ts';
import {
  addressKinds,
  backendsOf,
  configFile,
  mainConfig,
  pointingConfig,
  pointingFile,
  SOCKET_FILE,
  type AddressKind,
} from './haproxy-config.ts';
import { askHaproxy, haproxyListens, inFlight, pointingCommands, slotsOf } from './haproxy-runtime.ts';
import {
  haproxyRuns,
  startHaproxy,
  stopHaproxy,
  stopUnrecorded,
  type Haproxy,
  type HaproxyOptions,
} from './haproxy-server.ts';
import type { Endpoint } from './health.ts';
import { lastingFreePort, portIsFree } from '../ports.ts';
import { readJson, writeJson, writeWhole } from '../state-file.ts';

/** The stable addresses of a deployment: HAProxy, which outlives the worker. */
export type Front = Haproxy & {
  api: Endpoint;
  page: Endpoint;
  /** Its configuration, its socket and its record. */
  folder: string;
  logFile: string;
};

export interface FrontOptions extends HaproxyOptions {
  /** The deployment's folder. */
  folder: string;
  host: string;
  /** 0 for any free port, which is kept from then on. */
  apiPort: number;
  pagePort: number;
}

/**
 * Have the stable addresses listen; requests wait until `pointFront` says where they go. One that runs already is found again,
 * one that has ended comes back with the same ports and the same servers, and what a crashed attempt has left is stopped.
 */
export async function startFront(options: FrontOptions): Promise<Front> {
  options.signal.throwIfAborted();
  const folder = join(options.folder, 'front');
  const recorded = await readJson<Front>(recordFile(folder));
  const endpoints = await chooseEndpoints(options, recorded);
  if (recorded !== undefined && isAsWanted(recorded, endpoints, options) && (await frontServes(recorded)))
    return recorded;
  if (recorded !== undefined) await stopHaproxy(recorded, folder);
  await stopUnrecorded(options, folder);
  for (const kind of addressKinds) await requireFree(kind, endpoints[kind].port, options.host);
  await writeConfig(folder, endpoints, options.host);
  const logFile = join(folder, 'haproxy.log');
  const front: Front = { ...(await startHaproxy(options, folder, logFile)), ...endpoints, folder, logFile };
  await writeJson(recordFile(folder), front);
  return front;
}

export async function frontServes(front: Front): Promise<boolean> {
  return (await haproxyRuns(front)) && (await haproxyListens(front.folder));
}

/**
 * From now on new requests to an address go to this port of the loopback; with null they wait for one, up to 10 minutes. Those
 * in flight stay where they are. HAProxy comes back with the same after a restart.
 */
export async function pointFront(front: Front, kind: AddressKind, port: number | null): Promise<void> {
  const { folder, logFile } = front;
  const { url } = front[kind];
  await writeWhole(pointingFile(folder, kind), pointingConfig(kind, port));
  if (!(await haproxyListens(folder)))
    throw new TemperError('DeploymentError', `Nothing listens at ${url}: HAProxy has ended.\nIts log: ${logFile}`);
  const answer = await askHaproxy(folder, pointingCommands(await slotsOf(folder, kind), port));
  if ((await pointedAt(front, kind)) !== port)
    throw new TemperError('DeploymentError', `HAProxy did not point ${url} at port ${port}: ${answer.trim()}`);
}

/** The port that new requests to an address go to; null when they wait. */
export async function pointedAt(front: Front, kind: AddressKind): Promise<number | null> {
  const { serving } = backendsOf(kind);
  return (await slotsOf(front.folder, kind)).find(({ backend, isUp }) => backend === serving && isUp)?.port ?? null;
}

/** Wait until no request of an address is in flight to this port; false when some still are after `timeoutMs`. */
export async function untilDrained(
  front: Front,
  kind: AddressKind,
  port: number,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while ((await requestsTo(front, kind, port)) > 0) {
    if (Date.now() >= deadline) return false;
    await sleep(100, undefined, { signal });
  }
  return true;
}

/** Stop listening, finish requests in flight for some seconds, and forget where the addresses were and pointed. */
export async function stopFront(front: Front): Promise<void> {
  const { folder } = front;
  await stopHaproxy(front, folder);
  const pointings = addressKinds.map((kind) => pointingFile(folder, kind));
  for (const file of [recordFile(folder), configFile(folder), join(folder, SOCKET_FILE), ...pointings])
    await rm(file, { force: true });
}

/** None when HAProxy has ended, and its connections with it. */
async function requestsTo(front: Front, kind: AddressKind, port: number): Promise<number> {
  try {
    return inFlight((await slotsOf(front.folder, kind)).filter((slot) => slot.port === port));
  } catch (error) {
    if (await haproxyRuns(front)) throw error;
    return 0;
  }
}

function recordFile(folder: string): string {
  return join(folder, 'front.json');
}

type Endpoints = Record<AddressKind, Endpoint>;

async function chooseEndpoints({ host, apiPort, pagePort }: FrontOptions, recorded?: Front): Promise<Endpoints> {
  if (!(await portIsFree(0, host)))
    throw new TemperError('DeploymentError', `${host} is no address of this host; deploy.host takes one that is.`);
  const api = await chooseEndpoint(host, apiPort, recorded?.api);
  return { api, page: await chooseEndpoint(host, pagePort, recorded?.page, api.port) };
}

async function chooseEndpoint(host: string, wanted: number, recorded?: Endpoint, taken?: number): Promise<Endpoint> {
  const endpoint = (port: number) => ({ url: `http://${authority(host, port)}`, port });
  if (wanted !== 0) return endpoint(wanted);
  if (recorded !== undefined && endpoint(recorded.port).url === recorded.url) return recorded;
  let port: number;
  do port = await lastingFreePort();
  while (port === taken || !(await portIsFree(port, host)));
  return endpoint(port);
}

/** Host and port as a URL takes them, and as HAProxy's `bind` does. */
function authority(host: string, port: number): string {
  if (host === 'localhost') return `127.0.0.1:${port}`;
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

function isAsWanted(front: Front, { api, page }: Endpoints, { runtime }: FrontOptions): boolean {
  return front.runtime === runtime && front.api.url === api.url && front.page.url === page.url;
}

async function requireFree(kind: AddressKind, port: number, host: string): Promise<void> {
  if (await portIsFree(port, host)) return;
  const reason = port < 1024 ? 'another program does, or only root may (ports below 1024)' : 'another program does';
  throw new TemperError(
    'DeploymentError',
    `The deployment cannot listen on ${authority(host, port)}: ${reason}. Stop that program (\`ss -ltnp sport = :${port}\` names it), or give deploy.${kind}Port another port (0: any free one).`,
  );
}

/** What the addresses point at stays as it was, if they have been there before. */
async function writeConfig(folder: string, { api, page }: Endpoints, host: string): Promise<void> {
  const listen = { api: authority(host, api.port), page: authority(host, page.port) };
  await writeWhole(configFile(folder), mainConfig(listen));
  for (const kind of addressKinds) {
    const file = pointingFile(folder, kind);
    if (!existsSync(file)) await writeWhole(file, pointingConfig(kind, null));
  }
}

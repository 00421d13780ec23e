import { open } from 'node:fs/promises';
import { connect } from 'node:net';
import { addressKinds, backendsOf, SOCKET_FILE, type AddressKind } from './haproxy-config.ts';

/** A place for a server in one of an address's backends. */
export interface Slot {
  backend: string;
  name: string;
  port: number;
  /** Whether new requests may go to it. */
  isUp: boolean;
  requestsInFlight: number;
}

type Row = Partial<Record<string, string>>;

const ANSWER_TIMEOUT_MS = 5_000;

/** Run commands of HAProxy's runtime API one after the other; returns what it says. Throws when nobody listens. */
export async function askHaproxy(folder: string, commands: string[]): Promise<string> {
  const directory = await open(folder, 'r');
  try {
    // By the folder's descriptor the path is short, however long the folder's is.
    const socket = connect(`/proc/self/fd/${directory.fd}/${SOCKET_FILE}`);
    socket.setTimeout(ANSWER_TIMEOUT_MS, () => socket.destroy(new Error(`HAProxy in ${folder} does not answer`)));
    socket.setEncoding('utf8');
    socket.write(`${commands.join(';')}\n`);
    let answer = '';
    for await (const chunk of socket) answer += chunk as string;
    return answer;
  } finally {
    await directory.close();
  }
}

/** Whether both addresses are listened on. */
export async function haproxyListens(folder: string): Promise<boolean> {
  const rows = await statistics(folder).catch(() => []);
  return rows.filter(({ svname, status }) => svname === 'FRONTEND' && status === 'OPEN').length === addressKinds.length;
}

/** The slots of both backends of an address. */
export async function slotsOf(folder: string, kind: AddressKind): Promise<Slot[]> {
  const { serving, held } = backendsOf(kind);
  return (await statistics(folder))
    .filter(
      ({ pxname, svname }) => [serving, held].includes(pxname ?? '') && !['BACKEND', 'hold'].includes(svname ?? ''),
    )
    .map(({ pxname = '', svname = '', addr, status, qcur, scur }) => ({
      backend: pxname,
      name: svname,
      port: Number(addr?.split(':').at(-1)),
      isUp: status !== 'MAINT',
      requestsInFlight: Number(qcur) + Number(scur),
    }));
}

/** `show stat`, a row a frontend, backend and server: management guide, "Statistics and monitoring". */
async function statistics(folder: string): Promise<Row[]> {
  const [header = '', ...lines] = (await askHaproxy(folder, ['show stat'])).replace(/^# /, '').trim().split('\n');
  const names = header.split(',');
  return lines.map((line) =>
    Object.fromEntries<string>(line.split(',').map((value, index) => [names[index] ?? '', value])),
  );
}

/**
 * The commands after which new requests go to this port, or wait with null. A server comes in before the one before goes out,
 * which only takes no more requests: those in flight go on.
 */
export function pointingCommands(slots: Slot[], port: number | null): string[] {
  const next = port === null ? undefined : slotFor(slots, port);
  const comesIn = slots
    .filter(({ name }) => name === next)
    .flatMap(({ backend, name }) => [
      `set server ${backend}/${name} addr 127.0.0.1 port ${port}`,
      `set server ${backend}/${name} state ready`,
    ]);
  const goesOut = slots
    .filter(({ name }) => name !== next)
    .map(({ backend, name }) => `set server ${backend}/${name} state maint`);
  return [...comesIn, ...goesOut];
}

/** The slot that has this port already, else the one of those at rest with the fewest requests still in flight. */
function slotFor(slots: Slot[], port: number): string | undefined {
  const load = (slot: string) => inFlight(slots.filter(({ name }) => name === slot));
  const atRest = slots.filter(({ name }) => !slots.some((slot) => slot.name === name && slot.isUp));
  const byLoad = atRest.sort((one, other) => load(one.name) - load(other.name));
  return (slots.find((slot) => slot.port === port) ?? byLoad[0])?.name;
}

/** Requests in flight on these slots. */
export function inFlight(slots: Slot[]): number {
  return slots.reduce((total, { requestsInFlight }) => total + requestsInFlight, 0);
}

import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { TemperError } from './errors.ts';

/** A process that can be told from a later one with the same pid. */
export interface ProcessIdentity {
  pid: number;
  /** Clock ticks since boot, field 22 of /proc/<pid>/stat. */
  startTime: number;
  bootId: string;
}

/** This boot's id; it changes when the host restarts. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** Who has this pid now; undefined when nobody has, or only a zombie. */
export function identify(pid: number): ProcessIdentity | undefined {
  const fields = statFields(pid);
  if (fields === undefined || fields[0] === 'Z' || fields[0] === 'X') return undefined;
  return { pid, startTime: Number(fields[19]), bootId: bootId() };
}

/** Whether exactly this process still runs. */
export function isAlive(process: ProcessIdentity): boolean {
  const now = identify(process.pid);
  return now !== undefined && now.startTime === process.startTime && now.bootId === process.bootId;
}

/** Who runs with exactly this command-line argument. */
export function processesWith(argument: string): ProcessIdentity[] {
  return readdirSync('/proc').flatMap((name) => {
    const pid = Number(name);
    return Number.isInteger(pid) && argumentsOf(pid).includes(argument) ? (identify(pid) ?? []) : [];
  });
}

/** All descendants of a process, in whatever session they are. */
export function descendantsOf(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    const child = Number(name);
    const parent = Number.isInteger(child) ? Number(statFields(child)?.[1]) : NaN;
    if (!Number.isNaN(parent)) children.set(parent, [...(children.get(parent) ?? []), child]);
  }
  const collect = (of: number): number[] => (children.get(of) ?? []).flatMap((child) => [child, ...collect(child)]);
  return collect(pid);
}

/** Processor seconds that a process and its descendants have used, those that have ended included. */
export function processorSeconds(pid: number): number {
  const ticks = [pid, ...descendantsOf(pid)].flatMap((each) => statFields(each)?.slice(11, 15).map(Number) ?? []);
  return ticks.reduce((sum, each) => sum + each, 0) / TICKS_PER_SECOND;
}

/** What /proc counts in, on every Linux that Node runs on: proc(5), sysconf(_SC_CLK_TCK). */
const TICKS_PER_SECOND = 100;

/** SIGTERM, then SIGKILL to the process and all its descendants after `graceMs`; returns when they are gone. */
export async function stopTree(process: ProcessIdentity, graceMs: number): Promise<void> {
  const deadline = Date.now() + graceMs;
  signal(process, 'SIGTERM');
  while (isAlive(process) && Date.now() < deadline) await sleep(50);
  if (!isAlive(process)) return;
  const tree = [process.pid, ...descendantsOf(process.pid)].flatMap((pid) => identify(pid) ?? []);
  for (const { pid } of tree) kill(pid, 'SIGKILL');
  const patience = Date.now() + KILL_PATIENCE_MS;
  while (tree.some(isAlive)) {
    if (Date.now() > patience) {
      const stuck = tree.filter(isAlive).map(({ pid }) => pid);
      throw new TemperError(
        'HostError',
        `Processes ${stuck.join(', ')} survive SIGKILL: they wait in the kernel, perhaps for a GPU or a disk. Restart the host.`,
      );
    }
    await sleep(20);
  }
}

/** How long the kernel may take over a killed process, freeing its memory on a GPU included. */
const KILL_PATIENCE_MS = 30_000;

/** Send a signal to exactly this process; false when it is gone. */
export function signal(process: ProcessIdentity, name: NodeJS.Signals): boolean {
  return isAlive(process) && kill(process.pid, name);
}

function kill(pid: number, name: NodeJS.Signals): boolean {
  try {
    process.kill(pid, name);
    return true;
  } catch {
    return false;
  }
}

/** The command line (proc(5): arguments end with a zero byte); empty for a process that is gone. */
function argumentsOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

/** The fields of /proc/<pid>/stat from `state` on (proc(5): state is field 3, ppid 4, utime to cstime 14 to 17, starttime 22). */
function statFields(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

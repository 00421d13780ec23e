import { afterEach, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import {
  descendantsOf,
  identify,
  isAlive,
  processorSeconds,
  signal,
  stopTree,
  type ProcessIdentity,
} from '../../host/process-table.ts';
import { eventually, newFolder, runs } from '../fixtures/trainers/stand-in.ts';

const children: ChildProcess[] = [];

afterEach(() => {
  for (const child of children.splice(0)) if (child.pid !== undefined) killGroup(child.pid);
});

test('a process is told from a later one with its pid, and from one before a reboot', async () => {
  const sleeper = start('exec sleep 600');
  expect(isAlive(sleeper)).toBe(true);
  expect(isAlive({ ...sleeper, startTime: sleeper.startTime - 1 })).toBe(false);
  expect(isAlive({ ...sleeper, bootId: 'another boot' })).toBe(false);
});

test('a signal meant for an earlier process with the same pid reaches nobody', async () => {
  const sleeper = start('exec sleep 600');
  expect(signal({ ...sleeper, startTime: sleeper.startTime - 1 }, 'SIGKILL')).toBe(false);
  await stopTree({ ...sleeper, bootId: 'another boot' }, 0);
  expect(isAlive(sleeper)).toBe(true);
  expect(signal(sleeper, 'SIGKILL')).toBe(true);
  await eventually(() => !isAlive(sleeper));
  expect(signal(sleeper, 'SIGKILL')).toBe(false);
});

test('a zombie is not alive', async () => {
  const { line } = await startAndRead('sh -c "echo \\$\\$"& exec sleep 600');
  await eventually(() => readFileSync(`/proc/${line}/stat`, 'utf8').includes(') Z '));
  expect(runs(Number(line))).toBe(false);
});

test('nobody has a pid that was never given', () => {
  expect(identify(2 ** 22 + 1)).toBeUndefined();
});

test('descendants are found in whatever session they are', async () => {
  const { child, line } = await startAndRead('setsid sh -c "setsid sleep 600 & echo \\$! \\$\\$; wait" & wait');
  const [grandchild, middle] = line.split(' ').map(Number);
  expect(descendantsOf(child.pid ?? 0)).toEqual([middle, grandchild]);
});

test('what a tree computes is counted, what it sleeps is not', async () => {
  const busy = start('sh -c "while :; do :; done" & exec sleep 600');
  const idle = start('exec sleep 600');
  await eventually(() => processorSeconds(busy.pid) > 0.3);
  expect(processorSeconds(idle.pid)).toBeLessThan(0.1);
  const { pid } = start("sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; exec sleep 600");
  await eventually(() => descendantsOf(pid).length === 0 && processorSeconds(pid) > 0.05);
});

test('a process whose name has spaces and brackets is read right', async () => {
  const program = join(newFolder(), 'o) S 1 (dd');
  copyFileSync('/bin/sleep', program);
  const named = start(`exec '${program}' 600`);
  await eventually(() => readFileSync(`/proc/${named.pid}/stat`, 'utf8').includes('(o) S 1 (dd)'));
  expect(isAlive(named)).toBe(true);
  expect(descendantsOf(process.pid)).toContain(named.pid);
});

test('a tree that ends on SIGTERM is given its time', async () => {
  const { child, line } = await startAndRead('trap "exit 0" TERM; echo ready; while :; do sleep 0.05; done');
  expect(line).toBe('ready');
  const exit = once(child, 'exit');
  await stopTree(identityOf(child), 20_000);
  expect(await exit).toEqual([0, null]);
});

test('a tree that ignores SIGTERM is killed after the grace, those in sessions of their own too', async () => {
  const script = 'trap "" TERM; setsid sh -c "setsid sleep 600 & echo \\$! \\$\\$; wait" & while :; do sleep 1; done';
  const { child, line } = await startAndRead(script);
  const started = Date.now();
  await stopTree(identityOf(child), 300);
  expect(Date.now() - started).toBeGreaterThanOrEqual(300);
  expect([child.pid ?? 0, ...line.split(' ').map(Number)].map(runs)).toEqual([false, false, false]);
});

/** A shell script in a session of its own. */
function startChild(script: string): ChildProcess {
  const child = spawn('sh', ['-c', script], { detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  return child;
}

function start(script: string): ProcessIdentity {
  return identityOf(startChild(script));
}

async function startAndRead(script: string): Promise<{ child: ChildProcess; line: string }> {
  const child = startChild(script);
  if (child.stdout === null) throw new Error('no stdout');
  const [line] = (await once(createInterface(child.stdout), 'line')) as [string];
  return { child, line };
}

function identityOf(child: ChildProcess): ProcessIdentity {
  const identity = identify(child.pid ?? 0);
  if (identity === undefined) throw new Error('it has ended');
  return identity;
}

function killGroup(pid: number): void {
  for (const each of [...descendantsOf(pid), pid]) {
    try {
      process.kill(each, 'SIGKILL');
    } catch {
      // it has ended
    }
  }
}

import { expect, jest, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { readSlotClaims, whileHoldingSlot } from '../../host/gpu-slots.ts';
import { identify } from '../../host/process-table.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { eventually, newFolder } from '../fixtures/trainers/stand-in.ts';

jest.setTimeout(30_000);

interface Asked {
  priority?: number;
  slots?: number;
  signal?: AbortSignal;
  stage?: string;
}

/** Holds a slot from when it begins until it is told to end. */
class Holder {
  began = false;
  ended: Promise<void>;
  end: () => void = () => {};

  constructor(home: string, runName: string, asked: Asked = {}) {
    const { priority = 2, slots = 1, signal = new AbortController().signal, stage = 'trainModel' } = asked;
    const told = new Promise<void>((resolve) => (this.end = resolve));
    const claim = { runName, stage, priority, owner: `${runName} ${Math.random()}` };
    this.ended = whileHoldingSlot(claim, { home, slots, signal, report: () => {} }, async () => {
      this.began = true;
      await told;
    });
  }
}

/** What counts as the trainer of a run, until it is killed. */
function trainerOf(home: string, runName: string): () => void {
  const run = openRunDirectory(home, runName);
  mkdirSync(run.train, { recursive: true });
  const child = spawn('sleep', ['60']);
  const trainer = identify(child.pid ?? 0);
  writeFileSync(
    run.process,
    JSON.stringify({ ...trainer, keeper: { pid: trainer?.pid, startTime: trainer?.startTime } }),
  );
  return () => child.kill('SIGKILL');
}

test('as many hold slots as there are, the others wait in order of asking', async () => {
  const home = newFolder();
  const one = new Holder(home, 'one', { slots: 2 });
  const two = new Holder(home, 'two', { slots: 2 });
  const three = new Holder(home, 'three', { slots: 2 });
  await eventually(() => one.began && two.began);
  await sleep(700);
  expect(three.began).toBe(false);
  expect((await readSlotClaims(home)).waiting.map(({ runName }) => runName)).toEqual(['three']);
  one.end();
  await eventually(() => three.began);
  two.end();
  three.end();
  await Promise.all([one.ended, two.ended, three.ended]);
  expect(await readSlotClaims(home)).toEqual({ held: [], waiting: [] });
});

test('whoever goes first by priority overtakes those that have waited longer', async () => {
  const home = newFolder();
  const first = new Holder(home, 'first');
  await eventually(() => first.began);
  const later = new Holder(home, 'later');
  await eventually(async () => (await readSlotClaims(home)).waiting.length === 1);
  const urgent = new Holder(home, 'urgent', { priority: 1 });
  await eventually(async () => (await readSlotClaims(home)).waiting.length === 2);
  first.end();
  await eventually(() => urgent.began);
  expect(later.began).toBe(false);
  urgent.end();
  await eventually(() => later.began);
  later.end();
  await Promise.all([first.ended, urgent.ended, later.ended]);
});

test('a trainer that outlives its attempt keeps its slot for its own run, until it ends', async () => {
  const home = newFolder();
  const stopTrainer = trainerOf(home, 'run');
  const attempt = new Holder(home, 'run');
  await eventually(() => attempt.began);
  attempt.end();
  await attempt.ended;
  expect((await readSlotClaims(home)).held).toMatchObject([{ runName: 'run', worker: null }]);

  const other = new Holder(home, 'other');
  await sleep(700);
  expect(other.began).toBe(false);
  const next = new Holder(home, 'run');
  await eventually(() => next.began);
  stopTrainer();
  await sleep(700);
  expect(other.began).toBe(false);
  next.end();
  await eventually(() => other.began);
  other.end();
  await Promise.all([next.ended, other.ended]);
});

test('the slot of a worker that died is kept for the next attempt of its run, and not for ever', async () => {
  const home = newFolder();
  const dead = { pid: 1, startTime: 0, bootId: 'another boot' };
  const claim = { stage: 'evaluateModel', priority: 1, owner: 'x', since: '2020-01-01T00:00:00Z', worker: dead };
  const claims = { held: [{ ...claim, runName: 'lost' }], waiting: [{ ...claim, runName: 'lost-too' }] };
  writeFileSync(join(home, 'gpu-slots.json'), JSON.stringify(claims));
  const other = new Holder(home, 'other');
  await sleep(700);
  expect(other.began).toBe(false);
  const next = new Holder(home, 'lost');
  await eventually(() => next.began);
  next.end();
  await eventually(() => other.began);
  other.end();
  await Promise.all([next.ended, other.ended]);

  const longAgo = { held: [{ ...claim, runName: 'lost', lostAt: '2020-01-01T00:00:00Z' }], waiting: [] };
  writeFileSync(join(home, 'gpu-slots.json'), JSON.stringify(longAgo));
  const third = new Holder(home, 'third');
  await eventually(() => third.began);
  third.end();
  await third.ended;
});

test('who is cancelled while waiting gives its place up, with the reason it was cancelled for', async () => {
  const home = newFolder();
  const first = new Holder(home, 'first');
  await eventually(() => first.began);
  const controller = new AbortController();
  const waiting = new Holder(home, 'waiting', { signal: controller.signal });
  await eventually(async () => (await readSlotClaims(home)).waiting.length === 1);
  const reason = new Error('cancelled by a person');
  controller.abort(reason);
  await expect(waiting.ended).rejects.toBe(reason);
  expect((await readSlotClaims(home)).waiting).toEqual([]);
  first.end();
  await first.ended;
});

import { beforeEach, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { descendantsOf } from '../../host/process-table.ts';
import type { RunDirectory } from '../../host/run-directory.ts';
import { readJson } from '../../host/state-file.ts';
import { readEvents } from '../../host/training-events.ts';
import { exitOf, findTrainer, startTrainer, stopTrainer, trainerIsAlive } from '../../host/trainer-process.ts';
import { ENDLESS, eventually, newRun, runs, startStandIn, type StandIn } from '../fixtures/trainers/stand-in.ts';

let run: RunDirectory;

beforeEach(() => {
  run = newRun();
});

test('a trainer is found by whoever looks, and what it was started with is written down', async () => {
  expect(await findTrainer(run)).toBeUndefined();
  const trainer = await startStandIn(run, ['succeeds', '--steps', ENDLESS], 3);
  expect(await findTrainer(run)).toEqual(trainer);
  expect(trainer).toMatchObject({ attempt: 3, owner: 'test/3' });
  expect(trainer.argv).toContain(run.trainOutput);
  expect(runs(trainer.pid)).toBe(true);
  expect(await exitOf(run, trainer)).toBeUndefined();
});

describe('how a trainer ended is left in a file', () => {
  test.each<[StandIn, string[], { exitCode: number | null; signal: string | null }]>([
    ['succeeds', [], { exitCode: 0, signal: null }],
    ['fails', [], { exitCode: 1, signal: null }],
    ['dies_mid_checkpoint', [], { exitCode: null, signal: 'SIGKILL' }],
  ])('%s', async (name, flags, ending) => {
    const trainer = await startStandIn(run, [name, ...flags]);
    await eventually(() => !trainerIsAlive(trainer));
    expect(await exitOf(run, trainer)).toMatchObject({ pid: trainer.pid, ...ending });
    expect(await findTrainer(run)).toBeUndefined();
  });
});

test("an earlier trainer's end is not taken for a later one's", async () => {
  const first = await startStandIn(run, ['fails']);
  await eventually(() => !trainerIsAlive(first));
  const second = await startStandIn(run, ['succeeds'], 2);
  await eventually(() => !trainerIsAlive(second));
  expect(await exitOf(run, second)).toMatchObject({ exitCode: 0 });
  expect(await exitOf(run, first)).toBeUndefined();
});

test('several starts at once on one folder end in one trainer, which all of them are given', async () => {
  const starts = [1, 2, 3].map((attempt) => startStandIn(run, ['succeeds', '--steps', ENDLESS], attempt));
  const [first, ...others] = await Promise.all(starts);
  for (const other of others) expect(other).toEqual(first);
  await eventually(() => descendantsOf(process.pid).filter(isKeeper).length === 1);
  const started = (await eventually(async () => nonEmpty(await readEvents(run.events)))).filter(
    ({ type }) => type === 'started',
  );
  expect(started).toHaveLength(1);
});

test('a start beside a trainer that runs leaves it alone and returns it', async () => {
  const first = await startStandIn(run, ['succeeds', '--steps', ENDLESS]);
  expect(await startStandIn(run, ['succeeds', '--steps', ENDLESS], 2)).toEqual(first);
  expect(trainerIsAlive(first)).toBe(true);
});

test('a keeper that cannot start is a HostError that names the log', async () => {
  const start = startTrainer(run, { argv: [], attempt: 1, owner: 'test' });
  await expect(start).rejects.toMatchObject({ name: 'HostError', message: expect.stringContaining(run.trainerLog) });
  expect(readFileSync(run.trainerLog, 'utf8')).toContain('nothing to run');
});

test('a program that is not there ends at once with the reason in the log', async () => {
  const trainer = await startTrainer(run, { argv: ['no-such-trainer'], attempt: 1, owner: 'test' });
  await eventually(() => !trainerIsAlive(trainer));
  expect(await exitOf(run, trainer)).toMatchObject({ exitCode: 127 });
  expect(readFileSync(run.trainerLog, 'utf8')).toContain('cannot run no-such-trainer');
});

test('a trainer asked to stop saves a checkpoint first', async () => {
  const trainer = await startStandIn(run, ['succeeds', '--steps', ENDLESS, '--save-steps', ENDLESS]);
  await eventually(async () => (await readEvents(run.events)).some(({ type }) => type === 'step'));
  await stopTrainer(trainer, 20_000);
  const last = (await readEvents(run.events)).at(-1);
  expect(last).toMatchObject({ type: 'interrupted', signal: 'SIGTERM' });
  expect(await exitOf(run, trainer)).toMatchObject({ exitCode: 143 });
});

describe('stopping ends all of it, in whatever session, even what ignores SIGTERM', () => {
  test('its children', async () => {
    const trainer = await startStandIn(run, ['spawns_children', '--steps', ENDLESS]);
    const children = await eventually(() => readJson<number[]>(join(run.trainOutput, 'children.json')));
    expect(children.map(runs)).toEqual([true, true]);
    await stopTrainer(trainer, 10_000);
    expect([trainer.pid, trainer.keeper.pid, ...children].map(runs)).toEqual([false, false, false, false]);
  });

  test('itself, after the grace', async () => {
    const trainer = await startStandIn(run, ['ignores_sigterm', '--steps', ENDLESS]);
    await eventually(async () => (await readEvents(run.events)).some(({ type }) => type === 'step'));
    await stopTrainer(trainer, 500);
    expect(trainerIsAlive(trainer)).toBe(false);
    expect(await findTrainer(run)).toBeUndefined();
  });
});

test('children that a trainer left behind end with it', async () => {
  const trainer = await startStandIn(run, ['spawns_children']);
  await eventually(() => !trainerIsAlive(trainer));
  const children = await readJson<number[]>(join(run.trainOutput, 'children.json'));
  expect(children?.map(runs)).toEqual([false, false]);
  expect(await exitOf(run, trainer)).toMatchObject({ exitCode: 0 });
});

function isKeeper(pid: number): boolean {
  const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  return commandLine.some((argument) => argument.endsWith('trainer/keeper.py')) && commandLine.includes(run.train);
}

function nonEmpty<T>(items: T[]): T[] | undefined {
  return items.length === 0 ? undefined : items;
}

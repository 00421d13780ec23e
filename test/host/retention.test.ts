import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startCandidate } from '../../host/deployment/candidates.ts';
import { cleanRun, planCleaning, type CleaningPlan } from '../../host/retention.ts';
import { openRunDirectory, runDirectory } from '../../host/run-directory.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { releaseOf, stopAllServed, swap } from '../support/served.ts';

jest.setTimeout(60_000);

const DAY_MS = 86_400_000;
const WEIGHTS = 1000;
const now = Date.parse('2026-06-01T00:00:00Z');
const nobody = () => Promise.resolve(false);

let home: string;
beforeEach(() => {
  home = newFolder();
});
afterEach(() => stopAllServed(home));

/** The directory of a run that ended so many days ago, with weights, records and rows. */
function makeRun(runName: string, daysAgo: number, changes: { config?: string; outcome?: string | null } = {}): void {
  const { config = 'cards', outcome = 'deployed' } = changes;
  const run = openRunDirectory(home, runName);
  const finishedAt = new Date(now - daysAgo * DAY_MS);
  for (const folder of [run.dataset, run.trainOutput, run.merged]) mkdirSync(folder, { recursive: true });
  for (const file of [join(run.merged, 'model.safetensors'), join(run.trainOutput, 'adapter_model.safetensors')])
    writeFileSync(file, 'x'.repeat(WEIGHTS));
  for (const file of [run.run, run.events, run.trainConfig, run.evaluation, join(run.dataset, 'train.jsonl')])
    writeFileSync(file, '{}');
  const manifest = { runName, outcome, finishedAt, config: { name: config, digest: '' }, dataset: null };
  if (outcome !== null) writeFileSync(run.manifest, JSON.stringify(manifest));
  for (const path of [run.run, run.events, run.path]) utimesSync(path, finishedAt, finishedAt);
}

async function planned(policy = {}, isOpen = nobody): Promise<CleaningPlan> {
  return planCleaning(home, { keepDays: 30, keepNewest: 0, ...policy }, isOpen, now);
}

const names = (plan: CleaningPlan) => plan.clean.map(({ runName }) => runName);

test('runs older than keepDays go, but for the newest of each config', async () => {
  makeRun('a-old', 60);
  makeRun('b-older', 90);
  makeRun('c-young', 10);
  makeRun('d-other', 80, { config: 'other' });
  expect(names(await planned())).toEqual(['a-old', 'b-older', 'd-other']);
  expect(names(await planned({ keepNewest: 1 }))).toEqual(['a-old', 'b-older']);
  expect(names(await planned({ keepDays: 0 }))).toHaveLength(4);
});

test('runs that found nothing new do not count among the newest', async () => {
  makeRun('trained', 60);
  makeRun('unchanged', 50, { outcome: 'unchanged' });
  expect(names(await planned({ keepNewest: 1 }))).toEqual(['unchanged']);
});

test('a run that left no manifest is as old as what it wrote last', async () => {
  makeRun('crashed', 60, { outcome: null });
  makeRun('crashed-lately', 3, { outcome: null });
  expect(names(await planned())).toEqual(['crashed']);
});

test('what serves, what it would go back to, and a candidate stay, however old', async () => {
  for (const runName of ['one', 'two', 'three', 'four']) makeRun(runName, 90);
  await swap(releaseOf(home, 'one'));
  await swap(releaseOf(home, 'two'));
  await swap(releaseOf(home, 'three'));
  const four = releaseOf(home, 'four');
  await startCandidate(four, four.place, {
    ...{ placement: 'beside', signal: new AbortController().signal, report: () => {} },
  });
  const plan = await planned();
  expect(names(plan)).toEqual(['one']);
  expect(plan.kept).toEqual([
    { runName: 'four', why: 'it is a candidate' },
    { runName: 'three', why: 'it serves as cards' },
    { runName: 'two', why: 'cards goes back to it by temper rollback' },
  ]);
});

test('a run whose workflow goes on stays', async () => {
  makeRun('waiting', 60);
  const plan = await planned({}, () => Promise.resolve(true));
  expect(plan).toEqual({ clean: [], kept: [{ runName: 'waiting', why: 'its workflow goes on' }] });
});

test('a cleaned run keeps its records and rows, and is not cleaned again', async () => {
  makeRun('old', 60);
  const [old] = (await planned()).clean;
  if (old === undefined) throw new Error('nothing to clean');
  expect(old.bytes).toBe(2 * WEIGHTS);
  expect(await cleanRun(home, old, nobody)).toMatchObject({ runName: 'old', bytes: 2 * WEIGHTS });
  const run = runDirectory(home, 'old');
  expect(readdirSync(run.path).sort()).toEqual(
    ['cleaned.json', 'dataset', 'evaluation.json', 'manifest.json', 'run.json', 'train'].sort(),
  );
  expect(readdirSync(run.train).sort()).toEqual(['config.yaml', 'events.jsonl']);
  expect(await planned()).toEqual({ clean: [], kept: [] });
});

test('a run that has come into service between plan and cleaning is spared', async () => {
  makeRun('one', 60);
  const [one] = (await planned()).clean;
  await swap(releaseOf(home, 'one'));
  expect(await cleanRun(home, one as never, nobody)).toEqual({ runName: 'one', why: 'it serves as cards' });
  expect(existsSync(join(runDirectory(home, 'one').merged, 'model.safetensors'))).toBe(true);
});

test('what a crash in the middle left is cleaned the next time', async () => {
  makeRun('old', 60);
  const run = runDirectory(home, 'old');
  mkdirSync(join(run.path, 'cleaned'));
  writeFileSync(join(run.path, 'cleaned/merged'), 'x'.repeat(10));
  const [old] = (await planned()).clean;
  expect(old?.bytes).toBe(2 * WEIGHTS + 10);
  await cleanRun(home, old as never, nobody);
  expect(existsSync(join(run.path, 'cleaned'))).toBe(false);
});

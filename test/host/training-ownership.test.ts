import { beforeEach, describe, expect, test } from '@jest/globals';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { RunDirectory } from '../../host/run-directory.ts';
import { readJson } from '../../host/state-file.ts';
import { TrainingOwnership } from '../../host/training-ownership.ts';
import { newRun } from '../fixtures/trainers/stand-in.ts';

let run: RunDirectory;

beforeEach(() => {
  run = newRun();
});

describe('crashes in a row are counted', () => {
  test.each([
    ['without a new checkpoint', [0, 0, 0], [1, 2, 3]],
    ['anew while each one got further', [0, 2, 4, 6, 8], [1, 1, 1, 1, 1]],
    ['anew since the last progress', [0, 0, 2, 2, 2], [1, 2, 1, 2, 3]],
    ['beyond the limit', [4, 4, 4, 4], [1, 2, 3, 4]],
    ['anew when a damaged checkpoint sent them back to one place', [4, 2, 2, 2], [1, 1, 2, 3]],
  ])('%s', async (_, checkpoints, counts) => {
    const seen = [];
    for (const checkpoint of checkpoints)
      seen.push(await (await open('training', `attempt ${seen.length}`)).noteCrash('it died', checkpoint));
    expect(seen).toEqual(counts);
  });
});

test('another training begins with a clean count', async () => {
  for (const attempt of ['1', '2']) await (await open('old', attempt)).noteCrash('it died', 0);
  expect(await (await open('new', '3')).noteCrash('it died', 0)).toBe(1);
});

test('the latest attempt owns the training, and an earlier one can tell', async () => {
  await open('training', 'first');
  expect(await TrainingOwnership.isOwner(run, 'first')).toBe(true);
  await open('training', 'second');
  expect(await TrainingOwnership.isOwner(run, 'first')).toBe(false);
  expect(await TrainingOwnership.isOwner(run, 'second')).toBe(true);
});

test('nobody owns a training that was never begun', async () => {
  expect(await TrainingOwnership.isOwner(run, 'first')).toBe(false);
});

test('the same training is taken up where it is, its trainer untouched', async () => {
  await open('training', 'first');
  leave('output', 'events.jsonl', 'trainer.log', 'stop-request.json');
  await open('training', 'second', fail);
  expect(readdirSync(run.train).sort()).toEqual([
    'attempts.json',
    'events.jsonl',
    'output',
    'stop-request.json',
    'trainer.log',
  ]);
});

test('all of another training is set aside, after its trainer was stopped', async () => {
  const left = [
    ...['output', 'events.jsonl', 'trainer.log', 'process.json', 'exit.json', 'trainers.jsonl', 'stop-request.json'],
  ];
  await open('an old training', 'first');
  leave(...left, 'config.yaml');
  const before: string[][] = [];
  await open('a new training', 'second', () => void before.push(readdirSync(run.train)));
  expect(before).toEqual([expect.arrayContaining(left)]);
  const [aside] = readdirSync(run.train).filter((name) => name.startsWith('superseded-an old t'));
  expect(readdirSync(join(run.train, aside ?? '')).sort()).toEqual(left.sort());
  expect(readdirSync(run.train).sort()).toEqual(['attempts.json', 'config.yaml', aside]);
  expect(readFileSync(join(run.train, aside ?? '', 'output/file'), 'utf8')).toBe('output');
});

test('the new owner is known before the other training is stopped', async () => {
  await open('an old training', 'first');
  const owned: boolean[] = [];
  await TrainingOwnership.open(
    run,
    'a new training',
    'second',
    async () => void owned.push(await TrainingOwnership.isOwner(run, 'second')),
  );
  expect(owned).toEqual([true]);
});

test('it is told since when the folder has held this training', async () => {
  const since = async () => (await readJson<{ since: string }>(run.attempts))?.since;
  await open('old', 'first');
  const first = await since();
  expect(Date.parse(first ?? '')).not.toBeNaN();
  await open('old', 'second');
  expect(await since()).toBe(first);
  await new Promise((resolve) => setTimeout(resolve, 2));
  await open('new', 'third');
  expect((await since()) ?? '').not.toBe(first);
});

test('output of which nobody knows the training is set aside, too', async () => {
  leave('output');
  await open('training', 'first');
  expect(readdirSync(run.train).filter((name) => name.startsWith('superseded-unknown-'))).toHaveLength(1);
});

test('a stop that was asked for before the first attempt is still wanted', async () => {
  leave('stop-request.json');
  await open('training', 'first');
  expect(readdirSync(run.train)).toContain('stop-request.json');
});

async function open(training: string, owner: string, stopOther: () => void = () => {}): Promise<TrainingOwnership> {
  return TrainingOwnership.open(run, training, owner, async () => Promise.resolve(stopOther()));
}

function fail(): void {
  throw new Error('the trainer must not be stopped');
}

/** `output` becomes a folder with a file, the others files. */
function leave(...names: string[]): void {
  mkdirSync(run.train, { recursive: true });
  for (const name of names) {
    if (name === 'output') mkdirSync(run.trainOutput);
    writeFileSync(name === 'output' ? join(run.trainOutput, 'file') : join(run.train, name), name);
  }
}

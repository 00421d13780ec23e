import { expect, test } from '@jest/globals';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { countNewRows, lastJudgedRun } from '../../host/earlier-runs.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

interface Ended {
  outcome: string;
  config?: string;
  deployment?: string;
}

/** A home with runs that ended one after the other, named a, b, c, … */
function homeWith(runs: Ended[]): string {
  const home = newFolder();
  runs.forEach(({ outcome, config = 'cards', deployment = 'cards' }, index) => {
    const runName = String.fromCharCode(97 + index);
    const run = openRunDirectory(home, runName);
    const finishedAt = new Date(1e12 + index * 1000).toISOString();
    const manifest = { runName, outcome, finishedAt, config: { name: config, digest: 'c' }, dataset: null };
    writeFileSync(run.manifest, JSON.stringify(manifest));
    writeFileSync(run.run, JSON.stringify({ config: { deploy: { name: deployment } } }));
  });
  return home;
}

test.each<[string, Ended[], string | undefined]>([
  ['the newest one that was judged', [{ outcome: 'deployed' }, { outcome: 'rejected' }], 'b'],
  [
    'none that failed, was cancelled, rolled back or had nothing to do',
    [{ outcome: 'finished' }, ...['failed', 'cancelled', 'rolledBack', 'unchanged'].map((outcome) => ({ outcome }))],
    'a',
  ],
  ['none of another config', [{ outcome: 'deployed' }, { outcome: 'deployed', config: 'other' }], 'a'],
  ['none for another deployment', [{ outcome: 'deployed' }, { outcome: 'deployed', deployment: 'other' }], 'a'],
  ['none at all on a new host', [], undefined],
])('what a run is compared with: %s', async (_, runs, expected) => {
  const last = await lastJudgedRun(homeWith(runs), { name: 'cards', deploy: { name: 'cards' } }, 'itself');
  expect(last?.manifest.runName).toBe(expected);
});

test('a run is not compared with itself', async () => {
  const home = homeWith([{ outcome: 'deployed' }, { outcome: 'deployed' }]);
  const last = await lastJudgedRun(home, { name: 'cards', deploy: { name: 'cards' } }, 'b');
  expect(last?.manifest.runName).toBe('a');
});

test('new rows are those whose text is in no split of the earlier run', async () => {
  const home = newFolder();
  const [now, before] = ['now', 'before'].map((name) => openRunDirectory(home, name));
  if (now === undefined || before === undefined) throw new Error('no runs');
  for (const { dataset } of [now, before]) mkdirSync(dataset);
  writeFileSync(join(before.dataset, 'train.jsonl'), '{"a":1}\n{"a":2}\n');
  writeFileSync(join(before.dataset, 'held_out.jsonl'), '{"a":3}\n');
  writeFileSync(join(now.dataset, 'train.jsonl'), '{"a":3}\n{"a":4}\n{"a":1}\n');
  writeFileSync(join(now.dataset, 'held_out.jsonl'), '{"a":5}\n');
  expect(await countNewRows(now, before)).toBe(2);
  expect(await countNewRows(before, now)).toBe(1);
});

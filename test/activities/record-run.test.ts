import { beforeEach, expect, test } from '@jest/globals';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { recordRun, type Manifest, type RunOutcome } from '../../activities/record-run.ts';
import type { StageContext } from '../../activities/stage.ts';
import { openRunDirectory, type RunDirectory } from '../../host/run-directory.ts';
import { readJson, writeJson } from '../../host/state-file.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

let home: string;
let run: RunDirectory;

beforeEach(() => {
  home = newFolder();
  run = openRunDirectory(home, 'run');
});

test('the manifest is the chain of digests from the rows to the merged model', async () => {
  await leaveRecords();
  expect(await manifestOf('finished')).toEqual({
    runName: 'run',
    outcome: 'finished',
    finishedAt: expect.stringMatching(/Z$/),
    config: { name: 'demo', digest: 'config digest' },
    dataset: { digest: 'rows digest', rows: 10, trainRows: 8, heldOutRows: 2 },
    base: { path: '/models/base', digest: 'base digest' },
    adapter: { path: '/adapter', digest: 'adapter digest', steps: 4 },
    merged: { path: '/merged', digest: 'merge digest' },
    deployment: null,
    versions: { torch: '2.10.0' },
    stages: [],
  });
  expect(readFileSync(run.report, 'utf8')).toContain('merge digest');
});

test('a report that cannot be written is no failure of the run', async () => {
  await leaveRecords();
  mkdirSync(join(run.report, 'in the way'), { recursive: true });
  const progress = { runName: 'run', stages: [] };
  const { headline } = await recordRun({ outcome: 'finished', progress }, {
    run,
    runName: 'run',
    settings: { home },
  } as StageContext);
  expect(headline).toMatch(/^finished; without its report: /);
  expect(await readJson(run.manifest)).toMatchObject({ outcome: 'finished' });
});

test.each(['failed', 'cancelled'] as const)(
  'a run that %s before it made anything has a manifest, too',
  async (outcome) => {
    expect(await manifestOf(outcome)).toMatchObject({
      outcome,
      dataset: null,
      base: null,
      adapter: null,
      merged: null,
    });
  },
);

async function manifestOf(outcome: RunOutcome): Promise<Manifest | undefined> {
  const context = { run, runName: 'run', settings: { home } } as StageContext;
  const result = await recordRun({ outcome, progress: { runName: 'run', stages: [] } }, context);
  expect(result).toEqual({ runDirectory: run.path, headline: outcome });
  return readJson<Manifest>(run.manifest);
}

async function leaveRecords(): Promise<void> {
  const config = { name: 'demo', train: { model_name_or_path: '/models/base' } };
  await writeJson(run.run, { config, configDigest: 'config digest' });
  await writeJson(run.environment, { versions: { torch: '2.10.0' } });
  await writeJson(run.datasetReport, { digest: 'rows digest', rows: 10, trainRows: 8, heldOutRows: 2, problems: [] });
  const training = { adapter: '/adapter', adapterDigest: 'adapter digest', baseDigest: 'base digest', steps: 4 };
  await writeJson(join(run.stages, 'trainModel.json'), { result: training });
  await writeJson(join(run.stages, 'mergeAdapter.json'), {
    result: { modelDir: '/merged', modelDigest: 'merge digest' },
  });
}

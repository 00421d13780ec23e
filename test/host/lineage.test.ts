import { beforeEach, expect, test } from '@jest/globals';
import { appendFileSync, copyFileSync, cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Manifest } from '../../activities/record-run.ts';
import { checkout } from '../../host/checkout.ts';
import { traceModel, type Link } from '../../host/lineage.ts';
import { runPython } from '../../host/python.ts';
import { readJson, writeJson } from '../../host/state-file.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { makeFinishedRun, type FinishedRun } from '../support/finished-run.ts';

let made: FinishedRun;
beforeEach(async () => {
  made = await makeFinishedRun(newFolder());
});

test('a run that nobody has touched is a whole chain, down to the rows and their files', async () => {
  const links = await traceModel(made.served, false);
  expect(problemsOf(links)).toEqual({});
  expect(links.map(({ link, digest }) => [link, digest])).toEqual([
    ['served', 'merged'],
    ['run', made.manifest.config.digest],
    ['merged', 'merged'],
    ['adapter', made.manifest.adapter?.digest],
    ['base', 'base'],
    ['dataset', 'rows'],
  ]);
  expect(links.at(-1)).toMatchObject({
    what: [expect.stringContaining('2 rows trained on: '), expect.stringContaining('1 rows held out: ')],
    paths: [join(made.run.dataset, 'train.jsonl'), made.run.heldOut],
  });
});

const breaks: [string, Link['link'][], RegExp, () => Promise<void> | void][] = [
  [
    'another model is served',
    ['served'],
    /now: the run was begun again/,
    () => void (made.served.modelDigest = 'other'),
  ],
  ['the config was changed', ['run'], /run\.json/, () => change(made.run.run, { config: {} })],
  ['the model was merged again', ['merged'], /merge\.json/, () => change(made.run.mergeAudit, { mergeDigest: 'x' })],
  [
    'the merged model is gone',
    ['merged', 'adapter', 'base'],
    /missing/,
    () => rmSync(made.run.merged, { recursive: true }),
  ],
  ['the adapter was changed', ['adapter'], /adapter_model/, () => append(made.adapter, 'adapter_model.safetensors')],
  ['its config was changed', ['adapter'], /was merged/, () => append(made.adapter, 'adapter_config.json')],
  ['the adapter is gone', ['adapter'], /ENOENT/, () => rmSync(made.adapter, { recursive: true })],
  [
    'it was trained on something else',
    ['adapter'],
    /it was begun again/,
    () => change(trainStage(), { inputDigest: 'x' }),
  ],
  ['it was merged into another base', ['base'], /of the merge/, () => change(made.run.mergeAudit, { baseDigest: 'x' })],
  ['the rows were judged again', ['dataset'], /report\.json/, () => change(made.run.datasetReport, { digest: 'x' })],
  ['a row was added', ['dataset'], /3 rows, .* 2/, () => append(made.run.dataset, 'train.jsonl', '{}\n')],
  ['the held-out rows are gone', ['dataset'], /ENOENT.*held_out/, () => rmSync(made.run.heldOut)],
];

test.each(breaks)('when %s, just that link is broken', async (_, broken, why, damage) => {
  await damage();
  const problems = problemsOf(await traceModel(made.served, false));
  expect(Object.keys(problems)).toEqual(broken);
  for (const sentences of Object.values(problems)) expect(sentences.join('\n')).toMatch(why);
});

test('a run that made nothing is broken at each thing that it has not made', async () => {
  const nothing = { dataset: null, base: null, adapter: null, merged: null };
  await change(made.run.manifest, nothing satisfies Partial<Manifest>);
  const problems = problemsOf(await traceModel(made.served, true));
  expect(Object.keys(problems)).toEqual(['served', 'merged', 'adapter', 'base', 'dataset']);
});

test('a run without directory, or without manifest, is one sentence', async () => {
  rmSync(made.run.manifest);
  await expect(traceModel(made.served, false)).rejects.toThrow(/manifest\.json is not there/);
  rmSync(made.run.path, { recursive: true });
  await expect(traceModel(made.served, false)).rejects.toThrow(/a test serves the run first, but .* is gone/);
});

test('to verify reads weights, rows and pictures again', async () => {
  const { base, picture } = await makeRealRun();
  expect(problemsOf(await traceModel(made.served, true))).toEqual({});

  appendFileSync(picture, 'x');
  appendFileSync(join(made.run.merged, 'model.safetensors'), 'x');
  appendFileSync(join(made.run.merged, 'config.json'), ' ');
  copyFileSync(join(made.run.merged, 'model.safetensors'), join(base, 'model.safetensors'));
  expect(problemsOf(await traceModel(made.served, false))).toEqual({});
  expect(problemsOf(await traceModel(made.served, true))).toEqual({
    merged: ['model.safetensors', 'config.json'].map(
      (name) => `${join(made.run.merged, name)} is not what the merge wrote`,
    ),
    adapter: [expect.stringContaining(base)],
    base: [expect.stringContaining(base)],
    dataset: [expect.stringContaining('the rows with their pictures: ')],
  });
}, 120_000);

/** What the programs themselves make of the tiny model, trained as a whole, and of a few of the demo's cards. */
async function makeRealRun(): Promise<{ base: string; picture: string }> {
  const { run } = made;
  const cards = join(run.path, 'cards');
  const base = join(run.path, 'base');
  cpSync(join(checkout, 'demo/tiny-qwen3-vl'), base, { recursive: true });
  mkdirSync(cards);
  const picture = join(cards, '0001.png');
  copyFileSync(join(checkout, 'demo/cards/images/0001.png'), picture);
  const rows = ['What?', 'Who?'].map((question) => ({
    messages: [
      { role: 'user', content: `<image>${question}` },
      { role: 'assistant', content: 'A card.' },
    ],
    images: [picture],
  }));
  const info = (await readJson<Record<string, object>>(join(checkout, 'demo/cards/dataset_info.json'))) ?? {};
  await writeJson(join(cards, 'dataset_info.json'), { x: { ...info.cards, file_name: 'x.json' } });
  await writeJson(join(cards, 'x.json'), rows);
  rmSync(run.merged, { recursive: true });
  const { digest } = await runPython<{ digest: string }>('trainer/validate_dataset.py', [
    ...['--dataset-dir', cards, '--dataset', 'x', '--out', run.dataset, '--held-out-fraction', '0'],
  ]);
  const { baseDigest, mergeDigest } = await runPython<{ baseDigest: string; mergeDigest: string }>(
    'trainer/merge_adapter.py',
    [base, 'none', run.merged, '--device', 'cpu'],
  );
  made.served.modelDigest = mergeDigest;
  await change(run.manifest, {
    dataset: { digest, rows: 2, trainRows: 2, heldOutRows: 0 },
    base: { path: base, digest: baseDigest },
    adapter: { path: base, digest: baseDigest, steps: 4 },
    merged: { path: run.merged, digest: mergeDigest },
  } satisfies Partial<Manifest>);
  await made.recordTraining({ dataset: digest, base: baseDigest });
  return { base, picture };
}

function problemsOf(links: Link[]): Record<string, string[]> {
  return Object.fromEntries(
    links.filter(({ problems }) => problems.length > 0).map(({ link, problems }) => [link, problems]),
  );
}

function trainStage(): string {
  return join(made.run.stages, 'trainModel.json');
}

async function change(file: string, changes: object): Promise<void> {
  await writeJson(file, { ...(await readJson<object>(file)), ...changes });
}

function append(folder: string, name: string, text = ' '): void {
  writeFileSync(join(folder, name), text, { flag: 'a' });
}

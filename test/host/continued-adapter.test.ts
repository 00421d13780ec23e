import { expect, test } from '@jest/globals';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ResolvedConfig } from '../../configs/schema.ts';
import { startAtChampion } from '../../host/continued-adapter.ts';
import { deploymentFolder } from '../../host/deployment/model-server.ts';
import { digestOfFile } from '../../host/digest.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { writeJson } from '../../host/state-file.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

const config = (train: object = {}) =>
  ({ train: { lora_rank: 16, lora_alpha: 32, ...train }, deploy: { name: 'cards' } }) as unknown as ResolvedConfig;

/** A home where run `one` has trained an adapter and serves. */
async function homeWithChampion({ serves = true, base = 'base' } = {}): Promise<{ home: string; weights: string }> {
  const home = newFolder();
  const run = openRunDirectory(home, 'one');
  mkdirSync(run.trainOutput, { recursive: true });
  writeFileSync(join(run.trainOutput, 'adapter_config.json'), JSON.stringify({ r: 16, lora_alpha: 32 }));
  const weights = join(run.trainOutput, 'adapter_model.safetensors');
  writeFileSync(weights, 'weights');
  const adapter = { path: run.trainOutput, digest: await digestOfFile(weights) };
  await writeJson(run.manifest, { base: { digest: base }, adapter });
  if (serves) await writeJson(join(deploymentFolder(home, 'cards'), 'current.json'), { champion: { runName: 'one' } });
  return { home, weights };
}

test("starts at a copy of the champion's adapter, which stays when the champion changes", async () => {
  const { home, weights } = await homeWithChampion();
  const run = openRunDirectory(home, 'two');
  const start = await startAtChampion(run, config(), { home, baseDigest: 'base' });
  expect(start).toEqual({
    continuedFrom: { runName: 'one', path: run.continuedFrom, adapterDigest: await digestOfFile(weights) },
    why: 'trains on from the adapter of run one',
  });
  expect(readFileSync(join(run.continuedFrom, 'adapter_model.safetensors'), 'utf8')).toBe('weights');
  await writeJson(join(deploymentFolder(home, 'cards'), 'current.json'), { champion: { runName: 'three' } });
  expect(await startAtChampion(run, config(), { home, baseDigest: 'base' })).toEqual(start);
});

test.each<[string, { serves?: boolean; base?: string }, object, string, RegExp]>([
  ['nothing serves yet', { serves: false }, {}, 'two', /no champion serves yet/],
  ['the champion is of another base', { base: 'other' }, {}, 'two', /run one, is of another base/],
  ['the config wants another rank', {}, { lora_rank: 8 }, 'two', /has rank 16 and alpha 32, the config wants 8 and 32/],
  ['the champion is the run itself', {}, {}, 'one', /the champion is this run itself/],
])('starts at the base when %s', async (_, champion, train, runName, why) => {
  const { home } = await homeWithChampion(champion);
  const start = await startAtChampion(openRunDirectory(home, runName), config(train), { home, baseDigest: 'base' });
  expect(start.continuedFrom).toBeNull();
  expect(start.why).toMatch(why);
});

test('an adapter that is not the one its run trained is refused', async () => {
  const { home, weights } = await homeWithChampion();
  writeFileSync(weights, 'other weights');
  const start = startAtChampion(openRunDirectory(home, 'two'), config(), { home, baseDigest: 'base' });
  await expect(start).rejects.toThrow(/adapter_model\.safetensors is not the adapter that run one trained/);
});

test('full fine-tuning has no adapter to train on from', async () => {
  const { home } = await homeWithChampion();
  const start = startAtChampion(openRunDirectory(home, 'two'), config({ finetuning_type: 'full' }), {
    ...{ home, baseDigest: 'base' },
  });
  await expect(start).rejects.toThrow(/continueFrom: champion .*finetuning_type is full/);
});

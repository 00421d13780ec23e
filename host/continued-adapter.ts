import { cp, mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ResolvedConfig } from '../configs/schema.ts';
import { readDeployment } from './deployment/deployments.ts';
import { digestOfFile } from './digest.ts';
import { TemperError } from './errors.ts';
import { runDirectory, type RunDirectory } from './run-directory.ts';
import { readJson, writeJson } from './state-file.ts';

/** The adapter that a training goes on from, copied into the run's directory: `train/continued-from/`. */
export interface ContinuedFrom {
  runName: string;
  path: string;
  adapterDigest: string;
}

export interface StartingPoint {
  /** null: a new adapter on the base. */
  continuedFrom: ContinuedFrom | null;
  /** For people. */
  why: string;
}

const ADAPTER_FILES = ['adapter_config.json', 'adapter_model.safetensors'];

/** What of a champion's run decides whether its adapter can be trained on. */
interface ChampionManifest {
  base: { digest: string } | null;
  adapter: { path: string; digest: string } | null;
}

/**
 * Where a run with `continueFrom: champion` starts: at the adapter of what its deployment serves, or at the base, if nothing is
 * served or its adapter is of another base, rank or alpha. Decided once for a run directory. ConfigError for a config that trains
 * no LoRA adapter; HostError when the champion's adapter is not the one that its run trained.
 */
export async function startAtChampion(
  run: RunDirectory,
  { train, deploy }: Pick<ResolvedConfig, 'train' | 'deploy'>,
  { home, baseDigest }: { home: string; baseDigest: string },
): Promise<StartingPoint> {
  if ((train.finetuning_type ?? 'lora') !== 'lora')
    throw new TemperError(
      'ConfigError',
      `continueFrom: champion trains on from a LoRA adapter, and train.finetuning_type is ${train.finetuning_type}; start the run without continueFrom.`,
    );
  const recordFile = join(run.continuedFrom, 'continued-from.json');
  const before = await readJson<StartingPoint>(recordFile);
  if (before !== undefined) return before;
  const start = await chooseStart(run, train, await readDeployment(home, deploy.name), { home, baseDigest });
  const incomplete = `${run.continuedFrom}.incomplete`;
  await rm(incomplete, { recursive: true, force: true });
  await mkdir(incomplete, { recursive: true });
  if (start.from !== null) for (const file of ADAPTER_FILES) await cp(join(start.from, file), join(incomplete, file));
  const { from: _from, ...point } = start;
  await writeJson(join(incomplete, 'continued-from.json'), point);
  await rm(run.continuedFrom, { recursive: true, force: true });
  await rename(incomplete, run.continuedFrom);
  return point;
}

async function chooseStart(
  run: RunDirectory,
  train: ResolvedConfig['train'],
  deployment: { champion: { runName: string } } | undefined,
  { home, baseDigest }: { home: string; baseDigest: string },
): Promise<StartingPoint & { from: string | null }> {
  const atBase = (why: string) => ({ continuedFrom: null, from: null, why: `from the base: ${why}` });
  if (deployment === undefined) return atBase('no champion serves yet');
  const { runName } = deployment.champion;
  if (runDirectory(home, runName).path === run.path) return atBase('the champion is this run itself');
  const manifest = await readJson<ChampionManifest>(runDirectory(home, runName).manifest);
  const adapter = manifest?.adapter;
  if (adapter == null) return atBase(`the champion's run ${runName} has no manifest with an adapter`);
  if (manifest?.base?.digest !== baseDigest) return atBase(`the champion, run ${runName}, is of another base`);
  const config = await readJson<{ r?: number; lora_alpha?: number }>(join(adapter.path, 'adapter_config.json'));
  if (config === undefined) return atBase(`the champion's run ${runName} has no LoRA adapter any more`);
  const rank = Number(train.lora_rank ?? 8);
  const wanted = { r: rank, lora_alpha: Number(train.lora_alpha ?? 2 * rank) };
  if (config.r !== wanted.r || config.lora_alpha !== wanted.lora_alpha)
    return atBase(
      `the champion's adapter, run ${runName}, has rank ${config.r} and alpha ${config.lora_alpha}, the config wants ${wanted.r} and ${wanted.lora_alpha}`,
    );
  await requireUnchanged(adapter, runName);
  const continuedFrom = { runName, path: run.continuedFrom, adapterDigest: adapter.digest };
  return { continuedFrom, from: adapter.path, why: `trains on from the adapter of run ${runName}` };
}

async function requireUnchanged({ path, digest }: { path: string; digest: string }, runName: string): Promise<void> {
  const weights = join(path, 'adapter_model.safetensors');
  if ((await digestOfFile(weights)) === digest) return;
  throw new TemperError(
    'HostError',
    `${weights} is not the adapter that run ${runName} trained: its sha256 is not ${digest}. Restore it, or start without continueFrom.`,
  );
}

import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'yaml';
import { digestOfBase } from './base-digest.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import { digestOfConfig } from './config-digest.ts';
import { digestOfFile, digestOfValue } from './digest.ts';
import { messageOf, TemperError } from './errors.ts';
import { runPython } from './python.ts';
import { runDirectory, type RunDirectory } from './run-directory.ts';
import { readJson } from './state-file.ts';
import { decisiveInputs, type TrainingOptions } from './training-config.ts';

/** What a served model says of itself. */
export interface Served {
  /** Where it says so, for people. */
  by: string;
  home: string;
  runName: string;
  modelDigest: string;
}

/** One link of the chain from what is served to the rows it was trained on. */
export interface Link {
  link: 'served' | 'run' | 'merged' | 'adapter' | 'base' | 'dataset';
  /** What it is, in lines for people. */
  what: string[];
  digest: string | null;
  paths: string[];
  /** Why the link does not hold; empty when it does. */
  problems: string[];
}

/** What the chain needs of `manifest.json`, which activities/record-run.ts writes. */
interface Manifest {
  outcome: string;
  finishedAt: string;
  config: { name: string; digest: string };
  dataset: { digest: string; trainRows: number; heldOutRows: number } | null;
  base: { path: string; digest: string } | null;
  adapter: { path: string; digest: string; steps: number } | null;
  merged: { path: string; digest: string } | null;
}

type Trained = NonNullable<Manifest['adapter']>;

/** What the chain needs of `merged/merge.json`. */
interface MergeRecord {
  mergeDigest: string;
  /** The model that the adapter was merged into; the trained model itself when it was trained as a whole. */
  baseDigest: string;
  /** null when the model was trained as a whole. */
  adapterDigest: string | null;
}

interface Chain {
  run: RunDirectory;
  manifest: Manifest;
  merge: MergeRecord | undefined;
  /** Whether weights, rows and pictures are read again, too. */
  verify: boolean;
}

/**
 * The chain from a served model to the rows it was trained on, each link checked against what the files say now; with
 * `verify` also those that take long to read.
 */
export async function traceModel(served: Served, verify: boolean): Promise<Link[]> {
  const run = runDirectory(served.home, served.runName);
  const manifest = await readManifest(run, served);
  const merge = await readJson<MergeRecord>(join(manifest.merged?.path ?? run.merged, 'merge.json'));
  const chain: Chain = { run, manifest, merge, verify };
  const links: Link[] = [servedLink(served, chain)];
  for (const make of [runLink, mergedLink, adapterLink, baseLink, datasetLink]) links.push(await make(chain));
  return links;
}

async function readManifest(run: RunDirectory, { by, runName }: Served): Promise<Manifest> {
  if (!existsSync(run.path))
    throw new TemperError('HostError', `${by} serves the run ${runName}, but its directory ${run.path} is gone.`);
  const manifest = await readJson<Manifest>(run.manifest);
  if (manifest !== undefined) return manifest;
  throw new TemperError('HostError', `${run.manifest} is not there: it is written when the run ${runName} ends.`);
}

function servedLink({ by, runName, modelDigest }: Served, { manifest }: Chain): Link {
  const made = manifest.merged?.digest;
  const problems =
    made === modelDigest ? [] : [`the run's merged model is ${made ?? 'missing'} now: the run was begun again since`];
  return { link: 'served', what: [`${by}: run ${runName}`], digest: modelDigest, paths: [], problems };
}

async function runLink({ run, manifest }: Chain): Promise<Link> {
  const { outcome, finishedAt, config } = manifest;
  const record = await readJson<{ config: ResolvedConfig }>(run.run);
  return {
    link: 'run',
    what: [`${outcome} at ${finishedAt}, config ${config.name}: ${run.path}`],
    digest: config.digest,
    paths: [run.path, run.run, run.manifest],
    problems: differs(`the config in ${run.run}`, config.digest, record && digestOfConfig(record.config)),
  };
}

async function mergedLink({ manifest: { merged }, merge, verify }: Chain): Promise<Link> {
  if (merged === null) return missing('merged', 'the run has no merged model');
  const problems = differs('the merged model by its merge.json', merged.digest, merge?.mergeDigest);
  if (verify && problems.length === 0) problems.push(...(await failureOf(() => changedFiles(merged))));
  return { link: 'merged', what: [merged.path], digest: merged.digest, paths: [merged.path], problems };
}

async function changedFiles({ path, digest }: NonNullable<Manifest['merged']>): Promise<string[]> {
  const found = await runPython<{ mergeDigest: string; changed: string[] }>('trainer/check_merged.py', [path]);
  const changed = found.changed.map((name) => `${join(path, name)} is not what the merge wrote`);
  return [...changed, ...differs('what merge.json lists', digest, found.mergeDigest)];
}

async function adapterLink({ run, manifest, merge, verify }: Chain): Promise<Link> {
  const { adapter } = manifest;
  if (adapter === null) return missing('adapter', 'the run has trained nothing');
  const isWholeModel = merge?.adapterDigest === null;
  const problems = [
    ...(await failureOf(() =>
      isWholeModel ? wholeModelProblems(adapter, merge, verify) : adapterProblems(adapter, merge),
    )),
    ...(await failureOf(() => trainingProblems(run, manifest))),
  ];
  const what = `${isWholeModel ? 'the whole model' : 'LoRA'} after ${adapter.steps} steps: ${adapter.path}`;
  return { link: 'adapter', what: [what], digest: adapter.digest, paths: [adapter.path], problems };
}

/** A merge's digest of an adapter covers its adapter_config.json, too. */
async function adapterProblems({ path, digest }: Trained, merge: MergeRecord | undefined): Promise<string[]> {
  const weights = join(path, 'adapter_model.safetensors');
  const weightsDigest = await digestOfFile(weights);
  const merged = createHash('sha256')
    .update(await readFile(join(path, 'adapter_config.json')))
    .update(Buffer.from(weightsDigest, 'hex'))
    .digest('hex');
  return [
    ...differs(weights, digest, weightsDigest),
    ...differs('the adapter that was merged', merged, merge?.adapterDigest ?? undefined),
  ];
}

async function wholeModelProblems({ path, digest }: Trained, merge: MergeRecord, verify: boolean): Promise<string[]> {
  return [
    ...differs('the model that was brought to its type', digest, merge.baseDigest),
    ...(verify ? differs(path, digest, await digestOfBase(path)) : []),
  ];
}

/** Whether these rows, options and base are what was trained on: stages/trainModel.json has the digest of all that went in. */
async function trainingProblems(run: RunDirectory, { dataset, base }: Manifest): Promise<string[]> {
  const stage = await readJson<{ inputDigest: string }>(join(run.stages, 'trainModel.json'));
  const environment = await readJson<{ versions: Record<string, string> }>(run.environment);
  const record = await readJson<{ plan?: { globalBatch: number; continuedFrom?: { adapterDigest: string } | null } }>(
    run.run,
  );
  const inputs = decisiveInputs({
    options: parse(await readFile(run.trainConfig, 'utf8'), { version: '1.1' }) as TrainingOptions,
    globalBatch: record?.plan?.globalBatch ?? 0,
    dataset: dataset?.digest ?? '',
    base: base?.digest ?? '',
    continuedFrom: record?.plan?.continuedFrom?.adapterDigest ?? null,
    versions: environment?.versions ?? {},
  });
  if (stage?.inputDigest === digestOfValue(inputs)) return [];
  return ['it was trained on other rows, options, packages or another base than the run has now: it was begun again'];
}

async function baseLink({ manifest: { base }, merge, verify }: Chain): Promise<Link> {
  if (base === null) return missing('base', 'the run has no base');
  const problems = [
    ...(merge?.adapterDigest === null ? [] : differs('the base of the merge', base.digest, merge?.baseDigest)),
    ...(await failureOf(async () => (verify ? differs(base.path, base.digest, await digestOfBase(base.path)) : []))),
  ];
  return { link: 'base', what: [base.path], digest: base.digest, paths: [base.path], problems };
}

async function datasetLink({ run, manifest: { dataset }, verify }: Chain): Promise<Link> {
  if (dataset === null) return missing('dataset', 'the run has no clean rows');
  const train = join(run.dataset, 'train.jsonl');
  const report = await readJson<{ digest: string }>(run.datasetReport);
  const problems = [
    ...differs(run.datasetReport, dataset.digest, report?.digest),
    ...(await failureOf(() => countProblems(train, dataset.trainRows))),
    ...(await failureOf(() => countProblems(run.heldOut, dataset.heldOutRows))),
  ];
  if (verify && problems.length === 0) problems.push(...(await failureOf(() => rowProblems(run, dataset))));
  const what = [
    `${dataset.trainRows} rows trained on: ${train}`,
    `${dataset.heldOutRows} rows held out: ${run.heldOut}`,
  ];
  return { link: 'dataset', what, digest: dataset.digest, paths: [train, run.heldOut], problems };
}

async function rowProblems(run: RunDirectory, dataset: { digest: string }): Promise<string[]> {
  const { digest } = await runPython<{ digest: string }>('trainer/rows_digest.py', [run.dataset]);
  return differs('the rows with their pictures', dataset.digest, digest);
}

async function countProblems(file: string, expected: number): Promise<string[]> {
  let lines = 0;
  for await (const chunk of createReadStream(file)) {
    for (const byte of chunk as Buffer) if (byte === 10) lines += 1;
  }
  return lines === expected ? [] : [`${file} has ${lines} rows, the manifest says ${expected}`];
}

function missing(link: Link['link'], problem: string): Link {
  return { link, what: [], digest: null, paths: [], problems: [problem] };
}

function differs(what: string, expected: string, found: string | undefined): string[] {
  if (found === undefined) return [`${what} is missing`];
  return found === expected ? [] : [`${what}: the digest is ${found}, and should be ${expected}`];
}

/** A check that can't be made is a link that doesn't hold. */
async function failureOf(check: () => Promise<string[]> | string[]): Promise<string[]> {
  try {
    return await check();
  } catch (error) {
    return [messageOf(error)];
  }
}

import { lstat, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { listCandidates } from './deployment/candidates.ts';
import { recordedDeployments } from './deployment/deployments.ts';
import { championBefore, readHistory } from './deployment/history.ts';
import { endedRuns } from './earlier-runs.ts';
import { runDirectory, runsIn, type RunDirectory } from './run-directory.ts';
import { readJson, writeJson } from './state-file.ts';
import { findTrainer } from './trainer-process.ts';

export interface RetentionPolicy {
  /** Runs that ended within so many days are kept. */
  keepDays: number;
  /** So many of the newest runs of each config are kept, however old. */
  keepNewest: number;
}

export interface CleanableRun {
  runName: string;
  /** What cleaning frees. */
  bytes: number;
  /** ISO time. */
  endedAt: string;
}

export interface KeptRun {
  runName: string;
  why: string;
}

export interface CleaningPlan {
  clean: CleanableRun[];
  /** Runs that the policy would clean but for this. */
  kept: KeptRun[];
}

/** What stays of a cleaned run: how it was made and how it ended, and its rows; weights, checkpoints and caches go. */
const records = new Set([
  ...['run.json', 'environment.json', 'manifest.json', 'evaluation.json', 'deployment.json', 'report.html'],
  ...['stage-attempts.jsonl', 'cleaned.json', 'dataset', 'train/config.yaml', 'train/events.jsonl'],
]);

const DAY_MS = 86_400_000;

/** What a policy would clean now; `isOpen` says whether a run's workflow goes on. Reads only. */
export async function planCleaning(
  home: string,
  policy: RetentionPolicy,
  isOpen: (runName: string) => Promise<boolean>,
  now = Date.now(),
): Promise<CleaningPlan> {
  const needed = await neededRuns(home);
  const newest = await newestRuns(home, policy.keepNewest);
  const plan: CleaningPlan = { clean: [], kept: [] };
  for (const runName of await runsIn(home)) {
    const run = runDirectory(home, runName);
    const endedAt = await lastSignOf(run);
    if (now - endedAt < policy.keepDays * DAY_MS || newest.has(runName)) continue;
    const bytes = await bytesOf(await removable(run));
    if (bytes === 0) continue;
    const why = needed.get(runName) ?? (await whyBusy(run, runName, isOpen));
    if (why === undefined) plan.clean.push({ runName, bytes, endedAt: new Date(endedAt).toISOString() });
    else plan.kept.push({ runName, why });
  }
  return plan;
}

/** Clean a run, unless it has come to be needed since. What a crash in the middle leaves, the next time finds. */
export async function cleanRun(
  home: string,
  { runName, bytes }: CleanableRun,
  isOpen: (runName: string) => Promise<boolean>,
): Promise<CleanableRun | KeptRun> {
  const run = runDirectory(home, runName);
  const why = (await neededRuns(home)).get(runName) ?? (await whyBusy(run, runName, isOpen));
  if (why !== undefined) return { runName, why };
  const trash = join(run.path, 'cleaned');
  await writeJson(join(run.path, 'cleaned.json'), { cleanedAt: new Date().toISOString(), bytes });
  await rm(trash, { recursive: true, force: true });
  await mkdir(trash);
  // Out of sight at once: a model half removed must not look like one that can be served.
  for (const path of await removable(run))
    if (path !== trash) await rename(path, join(trash, relative(run.path, path).replaceAll('/', '__')));
  await rm(trash, { recursive: true });
  return { runName, bytes, endedAt: new Date().toISOString() };
}

/** Runs that a deployment serves, would come back to, or judges, with the reason. */
async function neededRuns(home: string): Promise<Map<string, string>> {
  const needed = new Map<string, string>();
  for (const { name, champion, swap } of await recordedDeployments(home)) {
    const before = championBefore(await readHistory(home, name), champion);
    if (before !== undefined) needed.set(before.model.runName, `${name} goes back to it by temper rollback`);
    if (swap?.previous) needed.set(swap.previous.runName, `${name} goes back to it if the swap fails`);
    needed.set(champion.runName, `it serves as ${name}`);
  }
  for (const { runName } of await listCandidates(home)) needed.set(runName, 'it is a candidate');
  return needed;
}

async function newestRuns(home: string, count: number): Promise<Set<string>> {
  const byConfig = new Map<string, string[]>();
  for (const { manifest } of await endedRuns(home)) {
    if (manifest.outcome === 'unchanged') continue; // it holds nothing
    const { name } = manifest.config;
    byConfig.set(name, [...(byConfig.get(name) ?? []), manifest.runName]);
  }
  return new Set([...byConfig.values()].flatMap((names) => (count === 0 ? [] : names.slice(-count))));
}

async function whyBusy(
  run: RunDirectory,
  runName: string,
  isOpen: (runName: string) => Promise<boolean>,
): Promise<string | undefined> {
  if ((await findTrainer(run)) !== undefined) return 'its trainer runs';
  return (await isOpen(runName)) ? 'its workflow goes on' : undefined;
}

/** When the run ended by its manifest, or else last wrote something; in milliseconds. */
async function lastSignOf(run: RunDirectory): Promise<number> {
  const manifest = await readJson<{ finishedAt: string }>(run.manifest);
  const signs = await Promise.all(
    [run.path, run.run, run.stageAttempts, run.events].map((path) =>
      stat(path).then(
        ({ mtimeMs }) => mtimeMs,
        () => 0,
      ),
    ),
  );
  return manifest === undefined ? Math.max(...signs) : Date.parse(manifest.finishedAt);
}

/** Paths that cleaning removes: all but the records. */
async function removable(run: RunDirectory, folder = ''): Promise<string[]> {
  const names = await readdir(join(run.path, folder));
  const found = await Promise.all(
    names.map(async (name) => {
      const path = folder === '' ? name : `${folder}/${name}`;
      if (records.has(path)) return [];
      const holdsRecords = [...records].some((record) => record.startsWith(`${path}/`));
      return holdsRecords ? removable(run, path) : [join(run.path, path)];
    }),
  );
  return found.flat();
}

/** Links are counted as links. */
async function bytesOf(paths: string[]): Promise<number> {
  let total = 0;
  for (const path of paths) {
    const about = await lstat(path);
    total += about.isDirectory() ? await bytesOf((await readdir(path)).map((name) => join(path, name))) : about.size;
  }
  return total;
}

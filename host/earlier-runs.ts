import { createReadStream } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { runDirectory, runsIn, type RunDirectory } from './run-directory.ts';
import { readJson } from './state-file.ts';

/** What is compared of `manifest.json`, which activities/record-run.ts writes. */
export interface EarlierManifest {
  runName: string;
  outcome: string;
  finishedAt: string;
  config: { name: string; digest: string };
  dataset: { digest: string; rows: number } | null;
}

export interface EarlierRun {
  run: RunDirectory;
  manifest: EarlierManifest;
}

/** A run that ended so has been judged: another with the same rows and config would come to the same. */
const verdicts = ['deployed', 'finished', 'rejected'];

/** All runs of this home that have ended and say how, the oldest end first. */
export async function endedRuns(home: string): Promise<EarlierRun[]> {
  const found = await Promise.all(
    (await runsIn(home)).map(async (name) => {
      const run = runDirectory(home, name);
      const manifest = await readJson<EarlierManifest>(run.manifest);
      return manifest === undefined ? [] : [{ run, manifest }];
    }),
  );
  return found.flat().sort((a, b) => a.manifest.finishedAt.localeCompare(b.manifest.finishedAt));
}

/** The last run of a config that came to a verdict, for this deployment; undefined when there is none. */
export async function lastJudgedRun(
  home: string,
  { name, deploy }: { name: string; deploy: { name: string } },
  except: string,
): Promise<EarlierRun | undefined> {
  const ended = await endedRuns(home);
  for (const earlier of ended.reverse()) {
    const { runName, outcome, config } = earlier.manifest;
    if (runName === except || config.name !== name || !verdicts.includes(outcome)) continue;
    const record = await readJson<{ config: { deploy: { name: string } } }>(earlier.run.run);
    if (record?.config.deploy.name === deploy.name) return earlier;
  }
  return undefined;
}

/** How many clean rows of a run are none of an earlier one's; a row is known by its text and its pictures' paths. */
export async function countNewRows(run: RunDirectory, earlier: RunDirectory): Promise<number> {
  const known = new Set<string>();
  for await (const digest of rowDigests(earlier)) known.add(digest);
  let count = 0;
  for await (const digest of rowDigests(run)) if (!known.has(digest)) count += 1;
  return count;
}

async function* rowDigests({ dataset }: RunDirectory): AsyncGenerator<string> {
  const files = (await readdir(dataset).catch(() => [])).filter((name) => name.endsWith('.jsonl'));
  for (const file of files) {
    for await (const line of createInterface({ input: createReadStream(join(dataset, file)), crlfDelay: Infinity }))
      if (line !== '') yield createHash('sha256').update(line).digest('base64');
  }
}

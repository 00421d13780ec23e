import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { TemperError } from '../host/errors.ts';
import { lastLines, readFrom } from '../host/log-file.ts';
import { runDirectory, type RunDirectory } from '../host/run-directory.ts';
import { readJson } from '../host/state-file.ts';
import { readSettings } from '../workers/settings.ts';

const POLL_MS = 500;
const MOST_BYTES = 4 * 1024 * 1024;

/** `temper logs RUN [-f]`: the end of the trainer's log, and with `follow` what is added, through resumes, until the run has ended. */
export async function logs(runName: string, { lines, follow }: { lines: string; follow?: boolean }): Promise<void> {
  const { home } = readSettings();
  const run = runDirectory(home, runName);
  if (!existsSync(run.path))
    throw new TemperError(
      'ConfigError',
      `There is no run ${runName} in ${home}. A log lies on the host that trains: \`npx temper hosts\` says which, \`npx temper runs\` lists the runs.`,
    );
  if (!existsSync(run.trainerLog) && follow !== true)
    throw new TemperError('ConfigError', `${runName} has no trainer's log yet: it has not come to train.`);
  const first = await readFrom(run.trainerLog, -MOST_BYTES);
  if (first.text !== '') process.stdout.write(`${lastLines(first.text, Number(lines)).join('\n')}\n`);
  if (follow === true) await followLog(run, first.end);
}

async function followLog(run: RunDirectory, from: number): Promise<void> {
  let end = from;
  for (let isLast = false; !isLast;) {
    isLast = await hasEnded(run);
    const fresh = await readFrom(run.trainerLog, end);
    process.stdout.write(fresh.text);
    end = fresh.end;
    if (!isLast) await sleep(POLL_MS);
  }
}

/** Its record is written anew at each end, so that an older one is from a start before. */
async function hasEnded(run: RunDirectory): Promise<boolean> {
  const [record, manifest] = await Promise.all([
    readJson<{ startedAt: string }>(run.run),
    readJson<{ finishedAt: string }>(run.manifest),
  ]);
  return record !== undefined && manifest !== undefined && manifest.finishedAt > record.startedAt;
}

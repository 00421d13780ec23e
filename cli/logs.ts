import { existsSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { TemperError } from '../host/errors.ts';
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
  process.stdout.write(lastLines(first.text, Number(lines)));
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

/** Text from this byte on, or of so many last bytes; from the beginning when the file is shorter than it was. */
async function readFrom(path: string, from: number): Promise<{ text: string; end: number }> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (file === undefined) return { text: '', end: 0 };
  try {
    const { size } = await file.stat();
    const start = from < 0 ? Math.max(0, size + from) : from > size ? 0 : from;
    const buffer = Buffer.alloc(size - start);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, start);
    return { text: buffer.subarray(0, bytesRead).toString('utf8'), end: start + bytesRead };
  } finally {
    await file.close();
  }
}

/** Each with what a progress bar showed last. */
function lastLines(text: string, count: number): string {
  const lines = text.replace(/\n$/, '').split('\n').slice(-count);
  const shown = lines.map((line) => line.replace(/\r+$/, '').split('\r').at(-1));
  return text === '' ? '' : `${shown.join('\n')}\n`;
}

/** Its record is written anew at each end, so that an older one is from a start before. */
async function hasEnded(run: RunDirectory): Promise<boolean> {
  const [record, manifest] = await Promise.all([
    readJson<{ startedAt: string }>(run.run),
    readJson<{ finishedAt: string }>(run.manifest),
  ]);
  return record !== undefined && manifest !== undefined && manifest.finishedAt > record.startedAt;
}

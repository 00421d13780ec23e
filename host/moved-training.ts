import { stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RunDirectory } from './run-directory.ts';
import { readAttempts } from './stage-attempts.ts';

export interface SilenceOptions {
  signal: AbortSignal;
  report: (details: Record<string, unknown>) => void;
  /** So long has nothing to be written. */
  silentMs?: number;
}

const POLL_MS = 1_000;

/**
 * When the training was last worked on by another host, wait until nothing of it is written any more: that host may have lost the
 * server but not the shared storage, and a second trainer would write over the first one's checkpoints.
 */
export async function untilOtherHostIsSilent(
  run: RunDirectory,
  { signal, report, silentMs = 300_000 }: SilenceOptions,
): Promise<void> {
  const other = await otherHostOf(run);
  if (other === undefined) return;
  let seen = await sizesOf(run);
  let silentSince = Date.now();
  while (Date.now() - silentSince < silentMs) {
    report({ message: `waiting until the trainer on host ${other} has been silent for ${silentMs / 60_000} minutes` });
    await sleep(Math.min(POLL_MS, silentMs), undefined, { signal });
    const now = await sizesOf(run);
    if (now !== seen) silentSince = Date.now();
    seen = now;
  }
}

/** The host of the attempt before this one, if it was another. */
async function otherHostOf(run: RunDirectory): Promise<string | undefined> {
  const begun = (await readAttempts(run, 'trainModel')).filter((line) => line.type === 'began');
  const host = begun.at(-2)?.worker.host;
  return host === hostname() ? undefined : host;
}

async function sizesOf(run: RunDirectory): Promise<string> {
  const sizes = await Promise.all(
    [run.events, run.trainerLog, run.process].map((file) =>
      stat(file).then(
        ({ size, ino }) => `${size} ${ino}`,
        () => '',
      ),
    ),
  );
  return sizes.join();
}

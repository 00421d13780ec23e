import { ActivityNotFoundError, Client } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import type { NativeConnection } from '@temporalio/worker';
import { readDataConverter } from './payload-codec.ts';
import { runDirectory, runsIn } from '../host/run-directory.ts';
import type { HostSettings } from '../host/settings.ts';
import { attemptsOfDeadWorkers, noteAttempt, type BegunAttempt } from '../host/stage-attempts.ts';

/**
 * Tell the server of attempts whose worker died on this host without a word, so that they are made again at once and not
 * after the heartbeat timeout. An attempt that the server has given up already is left to it.
 */
export async function giveUpDeadAttempts(
  { home }: HostSettings,
  connection: NativeConnection,
  namespace: string,
): Promise<void> {
  const client = new Client({ connection, namespace, ...readDataConverter() });
  for (const runName of await runsIn(home)) {
    const run = runDirectory(home, runName);
    for (const attempt of await attemptsOfDeadWorkers(run))
      if (await isGivenUp(client, attempt)) {
        const { stage, executionId, attempt: number } = attempt;
        const at = new Date().toISOString();
        noteAttempt(run, { type: 'ended', stage, executionId, attempt: number, how: 'lost', at });
      }
  }
}

/** Whether the server knows now that the attempt is over; it may be another one than the attempt's, or away. */
async function isGivenUp({ activity }: Client, { taskToken }: BegunAttempt): Promise<boolean> {
  const failure = ApplicationFailure.create({
    type: 'WorkerDied',
    message: 'The worker that made this attempt died; another one makes it again.',
    nextRetryDelay: '100ms',
  });
  return activity.fail(Buffer.from(taskToken, 'base64'), failure).then(
    () => true,
    (error: unknown) => error instanceof ActivityNotFoundError,
  );
}

import { ApplicationFailure } from '@temporalio/workflow';
import type { NotifyEntry } from '../configs/notify-schema.ts';
import type { Notice } from '../host/notifications/notice.ts';
import { reasonOf } from './stage-runner.ts';
import { notifyFrom } from './stages.ts';

export interface NotifyRunInput {
  notice: Notice;
  /** null: whoever the settings of the host name. */
  entries: NotifyEntry[] | null;
  /** The run's host; null before the run has one. */
  host: string | null;
}

/**
 * Tell all receivers of one event of a run. A workflow of its own, so that a receiver that is away for a day keeps neither the run
 * open nor its schedule waiting; it fails, naming them, when some could not be told.
 */
export async function notifyRun({ notice, entries, host }: NotifyRunInput): Promise<string[]> {
  const notify = notifyFrom(host);
  const told = await Promise.allSettled(
    (entries ?? [null]).map((entry) => {
      const summary = entry === null ? 'Tell whom the host names' : `Tell ${entry.format} by ${entry.urlEnv}`;
      return notify.executeWithOptions({ summary }, [{ notice, entry }]);
    }),
  );
  const failures = told.flatMap((each) => (each.status === 'rejected' ? [reasonOf(each.reason)] : []));
  if (failures.length > 0) throw ApplicationFailure.nonRetryable(failures.join('\n'), 'NotificationError');
  return told.flatMap((each) => (each.status === 'fulfilled' ? [each.value.headline] : []));
}

import { ApplicationFailure, Context } from '@temporalio/activity';
import { existsSync } from 'node:fs';
import type { NotifyEntry } from '../configs/notify-schema.ts';
import { messageOf } from '../host/errors.ts';
import { appendLine } from '../host/json-lines.ts';
import type { Notice } from '../host/notifications/notice.ts';
import { NotificationError, sendNotice } from '../host/notifications/send-notice.ts';
import { runDirectory, type RunDirectory } from '../host/run-directory.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface NotifyInput {
  notice: Notice;
  /** null: whoever this host's settings name, since the run's config could not be read. */
  entry: NotifyEntry | null;
}

/** A line of `notifications.jsonl`: an attempt to tell of an event. */
export interface NotificationAttempt {
  type: 'sent' | 'failed';
  id: string;
  event: Notice['event'];
  format: NotifyEntry['format'];
  urlEnv: string;
  attempt: number;
  /** ISO time. */
  at: string;
  /** Why it failed. */
  why?: string;
}

/** Post a run's notice to one receiver; each attempt is kept in the run's `notifications.jsonl`. */
export async function notify(
  { notice, entry: wanted }: NotifyInput,
  { settings, signal, attempt }: StageContext,
): Promise<StageResult> {
  const entry = wanted ?? settings.notify;
  if (entry === undefined) return { headline: 'nobody is to be told: TEMPER_NOTIFY_URL is not set' };
  const run = directoryOf(settings.home, notice.runName);
  const fromHost = {
    ...{ ...notice, host: settings.hostName, namespace: Context.current().info.activityNamespace },
    ...{ runDirectory: run?.path ?? null, report: run !== undefined && existsSync(run.report) ? run.report : null },
  };
  const { id, event } = notice;
  const told = { id, event, format: entry.format, urlEnv: entry.urlEnv, attempt, at: new Date().toISOString() };
  try {
    const { status } = await sendNotice(entry, fromHost, { signal });
    note(run, { type: 'sent', ...told });
    return { headline: `${entry.format} by ${entry.urlEnv}: HTTP ${status}` };
  } catch (error) {
    signal.throwIfAborted();
    note(run, { type: 'failed', ...told, why: messageOf(error) });
    if (!(error instanceof NotificationError) || error.seconds === undefined) throw error;
    const { name: type, message, seconds } = error;
    throw ApplicationFailure.create({ type, message, nextRetryDelay: `${seconds}s` });
  }
}

/** The run's directory, if there is one by now. */
function directoryOf(home: string, runName: string): RunDirectory | undefined {
  try {
    const run = runDirectory(home, runName);
    return existsSync(run.path) ? run : undefined;
  } catch {
    return undefined;
  }
}

/** A full disk is no reason to tell nobody. */
function note(run: RunDirectory | undefined, attempt: NotificationAttempt): void {
  try {
    if (run !== undefined) appendLine(run.notifications, attempt);
  } catch (error) {
    console.error(`${run?.notifications} could not be written: ${messageOf(error)}`);
  }
}

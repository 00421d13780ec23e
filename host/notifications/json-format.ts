import { createHmac } from 'node:crypto';
import { TemperError } from '../errors.ts';
import { commandsFor, durationSeconds, truncate } from './message.ts';
import type { NoticeFromHost } from './notice.ts';
import { jsonHeaders, type WebhookFormat } from './webhook.ts';

/** The body that any receiver gets; docs/notifications.md describes it. Another meaning of a field makes another version. */
export interface JsonNotification {
  version: 1;
  /** The same for every attempt to tell of one event. */
  id: string;
  type: `run.${NoticeFromHost['event']}`;
  /** ISO time of the event. */
  timestamp: string;
  data: {
    run: string;
    why: string | null;
    config: string | null;
    deployment: string | null;
    host: string;
    namespace: string;
    startedAt: string;
    durationSeconds: number;
    evaluation: NoticeFromHost['evaluation'];
    apiUrl: string | null;
    pageUrl: string | null;
    runDirectory: string | null;
    report: string | null;
    reportUrl: string | null;
    /** What a run that waits for approval is answered with. */
    approval: { hours: number; approve: string; reject: string } | null;
  };
}

const MAX_WHY_CHARACTERS = 4000;

/** Signed as Standard Webhooks has it (standardwebhooks.com): HMAC-SHA256 over `id.timestamp.body`. */
export const jsonFormat: WebhookFormat = {
  request: (notice, url, secret, at) => {
    const body = JSON.stringify(notificationFor(notice));
    const timestamp = String(Math.floor(at.getTime() / 1000));
    const headers: Record<string, string> = { ...jsonHeaders, 'webhook-id': notice.id, 'webhook-timestamp': timestamp };
    if (secret !== undefined)
      headers['webhook-signature'] = `v1,${sign(`${notice.id}.${timestamp}.${body}`, keyOf(secret))}`;
    return { url, headers, body };
  },
  judge: () => ({ kind: 'taken' }),
};

function notificationFor(notice: NoticeFromHost): JsonNotification {
  const { id, event, at, runName, approvalHours, why, config, deployment, host, namespace, startedAt } = notice;
  const { evaluation, apiUrl, pageUrl, runDirectory, report, reportUrl } = notice;
  const [approve, reject] = commandsFor(notice);
  return {
    ...{ version: 1, id, type: `run.${event}`, timestamp: at },
    data: {
      ...{
        run: runName,
        why: why === null ? null : truncate(why, MAX_WHY_CHARACTERS),
        config,
        deployment,
        host,
        namespace,
        startedAt,
      },
      ...{ durationSeconds: durationSeconds(notice), evaluation, apiUrl, pageUrl, runDirectory, report, reportUrl },
      approval:
        approve === undefined || reject === undefined
          ? null
          : { hours: approvalHours ?? 0, approve: approve.command, reject: reject.command },
    },
  };
}

function sign(content: string, key: Buffer): string {
  return createHmac('sha256', key).update(content).digest('base64');
}

/** `whsec_` and base64, as the libraries of Standard Webhooks take it; the prefix may be missing. */
function keyOf(secret: string): Buffer {
  const text = secret.replace(/^whsec_/, '');
  const key = Buffer.from(text, 'base64');
  if (/^[A-Za-z0-9+/]+={0,2}$/.test(text) && key.length >= 24 && key.length <= 64) return key;
  throw new TemperError(
    'ConfigError',
    'The secret of a json webhook is whsec_ with 24 to 64 bytes in base64; echo "whsec_$(openssl rand -base64 32)" makes one.',
  );
}

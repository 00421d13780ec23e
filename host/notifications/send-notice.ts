import type { NotifyEntry } from '../../configs/notify-schema.ts';
import { messageOf, TemperError } from '../errors.ts';
import { askHttp, type HttpAnswer } from '../http.ts';
import { dingtalkFormat } from './dingtalk-format.ts';
import { feishuFormat } from './feishu-format.ts';
import { jsonFormat } from './json-format.ts';
import type { NoticeFromHost } from './notice.ts';
import { sampleNotice } from './sample-notice.ts';
import { slackFormat } from './slack-format.ts';
import type { Verdict, WebhookFormat, WebhookRequest } from './webhook.ts';
import { wecomFormat } from './wecom-format.ts';

const formats: Record<NotifyEntry['format'], WebhookFormat> = {
  json: jsonFormat,
  slack: slackFormat,
  feishu: feishuFormat,
  dingtalk: dingtalkFormat,
  wecom: wecomFormat,
};

/** A request may be late (408, 425), one too many (429), or meet a server in trouble; nothing else gets better by itself. */
const transientStatuses = [408, 425, 429];

const TIMEOUT_MS = 30_000;

/** A receiver that asks for more patience gets this much, in seconds. */
const LONGEST_PAUSE_S = 3600;

/** An answer as a person sees it; `seconds` is when the receiver wants to be asked again. */
export interface Delivery {
  status: number;
  answer: string;
}

/** A receiver could not be told now; another attempt may. */
export class NotificationError extends TemperError {
  /** When the receiver wants to be asked again. */
  readonly seconds: number | undefined;

  constructor(message: string, seconds?: number) {
    super('NotificationError', message);
    this.seconds = seconds;
  }
}

/**
 * Post a notice once. Throws NotificationError when a later attempt may help, HostError when the environment lacks what the entry
 * names, ConfigError when the receiver refuses it; no message holds the address or the secret.
 */
export async function sendNotice(
  entry: NotifyEntry,
  notice: NoticeFromHost,
  { signal, timeoutMs = TIMEOUT_MS, env = process.env }: SendOptions = {},
): Promise<Delivery> {
  const { url, secret } = readReceiver(entry, env);
  const format = formats[entry.format];
  const request = format.request(notice, url, secret, new Date());
  const who = `The ${entry.format} webhook of ${entry.urlEnv} (${new URL(url).host})`;
  const hidden = (text: string) => withoutSecrets(text, request, secret);
  const timeout = AbortSignal.timeout(timeoutMs);
  const answer = await post(request, signal === undefined ? timeout : AbortSignal.any([signal, timeout])).catch(
    (error: unknown) => {
      signal?.throwIfAborted();
      const why = timeout.aborted ? `it has not answered within ${timeoutMs / 1000} s` : hidden(reasonOf(error));
      throw new NotificationError(`${who} can't be reached: ${why}.`);
    },
  );
  const verdict = judge(format, answer);
  if (verdict.kind === 'later')
    throw new NotificationError(`${who} did not take it: ${hidden(verdict.why)}`, verdict.seconds);
  if (verdict.kind === 'refused') throw new TemperError('ConfigError', `${who} refuses it: ${hidden(verdict.why)}`);
  return { status: answer.status, answer: hidden(answer.body.slice(0, 200)) };
}

export interface SendOptions {
  signal?: AbortSignal | undefined;
  timeoutMs?: number;
  env?: NodeJS.ProcessEnv;
}

/** What an entry's variables hold; HostError when one is missing or is no address. */
export function readReceiver(
  { format, urlEnv, secretEnv }: NotifyEntry,
  env: NodeJS.ProcessEnv = process.env,
): { url: string; secret: string | undefined } {
  const missing = [urlEnv, ...(secretEnv === undefined ? [] : [secretEnv])].filter((name) => !env[name]);
  if (missing.length > 0)
    throw new TemperError(
      'HostError',
      `Notifications by ${format}: ${missing.join(' and ')} ${missing.length === 1 ? 'is' : 'are'} not set in the worker's environment.`,
    );
  const url = env[urlEnv] ?? '';
  const isAddress = URL.canParse(url) && ['http:', 'https:'].includes(new URL(url).protocol);
  if (!isAddress)
    throw new TemperError('HostError', `Notifications by ${format}: what ${urlEnv} holds is no http or https address.`);
  return { url, secret: secretEnv === undefined ? undefined : env[secretEnv] };
}

/** What stands in the way of telling a receiver, nothing being sent; undefined when nothing is known to. */
export function receiverFault(entry: NotifyEntry, env: NodeJS.ProcessEnv = process.env): string | undefined {
  try {
    const { url, secret } = readReceiver(entry, env);
    formats[entry.format].request(sampleNotice('finished'), url, secret, new Date());
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

async function post({ url, headers, body }: WebhookRequest, signal: AbortSignal): Promise<HttpAnswer> {
  return askHttp(url, {
    method: 'POST',
    headers: { ...headers, 'content-length': Buffer.byteLength(body) },
    body,
    signal,
  });
}

function judge(format: WebhookFormat, { status, headers, body }: HttpAnswer): Verdict {
  if (status >= 200 && status < 300) return format.judge(body);
  const why = `HTTP ${status} ${body.replaceAll(/\s+/g, ' ').slice(0, 200)}`.trim();
  const seconds = secondsUntil(headers['retry-after']);
  if (status >= 500 || transientStatuses.includes(status))
    return { kind: 'later', why, ...(seconds === undefined ? {} : { seconds }) };
  return { kind: 'refused', why };
}

/** `Retry-After` in seconds, be it a number of them or a date. */
function secondsUntil(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const seconds = /^\d+$/.test(value.trim()) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(1, Math.ceil(seconds)), LONGEST_PAUSE_S) : undefined;
}

/** A receiver's words without what it may have repeated of the address and the secret. */
function withoutSecrets(text: string, { url }: WebhookRequest, secret: string | undefined): string {
  const { pathname, searchParams, username, password } = new URL(url);
  const parts = [url, secret, username, password, ...pathname.split('/'), ...searchParams.values()];
  const secrets = parts.filter((part) => part !== undefined && part.length >= 6) as string[];
  return secrets.reduce((left, part) => left.replaceAll(part, '…').replaceAll(encodeURIComponent(part), '…'), text);
}

function reasonOf(error: unknown): string {
  // Node tells of all addresses of a name that it tried in one error without words.
  if (error instanceof AggregateError) return error.errors.map(messageOf).join('; ');
  return messageOf(error);
}

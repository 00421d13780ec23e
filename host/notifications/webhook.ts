import type { NoticeFromHost } from './notice.ts';

/** What is posted. */
export interface WebhookRequest {
  url: string;
  headers: Record<string, string>;
  body: string;
}

/** How a receiver took it: `later` may help, and `seconds` says when if the receiver did; `refused` no retry helps. */
export type Verdict =
  { kind: 'taken' } | { kind: 'later'; why: string; seconds?: number } | { kind: 'refused'; why: string };

/** One kind of receiver. */
export interface WebhookFormat {
  /** `at` is the moment of sending, which signatures hold. Throws ConfigError for a secret that can't be one. */
  request: (notice: NoticeFromHost, url: string, secret: string | undefined, at: Date) => WebhookRequest;
  /** What the body of an answer with HTTP status 200 says. */
  judge: (body: string) => Verdict;
}

export const jsonHeaders = { 'content-type': 'application/json; charset=utf-8', 'user-agent': 'temper' };

/** For services that answer 200 with `{"<code>": 0}` when they took it, and with another number and its words when not. */
export function judgeByCode(
  body: string,
  { code, message, refusals }: { code: string; message: string; refusals: readonly number[] },
): Verdict {
  const answer = parse(body);
  const number = answer?.[code];
  if (number === 0) return { kind: 'taken' };
  if (typeof number !== 'number') return { kind: 'later', why: `its answer has no ${code}: ${body.slice(0, 200)}` };
  const why = `${code} ${number}: ${String(answer?.[message])}`;
  return { kind: refusals.includes(number) ? 'refused' : 'later', why };
}

function parse(body: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

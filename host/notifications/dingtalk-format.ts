import { createHmac } from 'node:crypto';
import { markdownField, messageFor, truncate, truncateBytes } from './message.ts';
import { jsonHeaders, judgeByCode, type WebhookFormat } from './webhook.ts';

/** A body may have 20,000 bytes; this leaves room for the rest of it. */
const MAX_TEXT_BYTES = 16_000;
const MAX_TITLE = 100;

/**
 * No such token (300001, 400106), keyword, signature or sender's address (310000), the group is gone (400013), no token (400101), bot
 * switched off (400102), bad message (40035, 400105). The rest is tried again, such as 130101, too many a minute.
 */
const refusals = [40035, 300001, 310000, 400013, 400101, 400102, 400105, 400106];

/** Markdown for a custom bot of a group (open.dingtalk.com/document/robots/custom-robot-access), signed in the address. */
export const dingtalkFormat: WebhookFormat = {
  request: (notice, url, secret, at) => {
    const { title, why, fields, commands } = messageFor(notice);
    const lines = [
      `### ${escape(title)}`,
      ...(why === '' ? [] : [escape(why)]),
      ...fields.map((field) => markdownField(field, escape)),
      ...commands.map(({ label, command }) => `**${label}**: ${escape(command)}`),
    ];
    const markdown = { title: truncate(title, MAX_TITLE), text: truncateBytes(lines.join('\n\n'), MAX_TEXT_BYTES) };
    const target = secret === undefined ? url : signedUrl(url, secret, at);
    return { url: target, headers: jsonHeaders, body: JSON.stringify({ msgtype: 'markdown', markdown }) };
  },
  judge: (body) => judgeByCode(body, { code: 'errcode', message: 'errmsg', refusals }),
};

function signedUrl(url: string, secret: string, at: Date): string {
  const timestamp = String(at.getTime());
  const sign = createHmac('sha256', secret).update(`${timestamp}\n${secret}`).digest('base64');
  const signed = new URL(url);
  signed.searchParams.set('timestamp', timestamp);
  signed.searchParams.set('sign', sign);
  return signed.href;
}

/** What Markdown would take for markup; an underscore within a word is none. */
function escape(text: string): string {
  return text.replaceAll(/[\\`*[\]<>~#]/g, '\\$&').replaceAll(/(?<![\p{L}\p{N}])_|_(?![\p{L}\p{N}])/gu, '\\_');
}

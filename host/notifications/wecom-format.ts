import { markdownField, messageFor, truncateBytes, type Tone } from './message.ts';
import { jsonHeaders, judgeByCode, type WebhookFormat } from './webhook.ts';

/** Of the Markdown, in UTF-8. */
const MAX_BYTES = 4096;

const colors: Record<Tone, string> = { good: 'info', bad: 'warning', asking: 'warning', neutral: 'comment' };

/**
 * Bad message (40008, 40058), no such webhook (93000), bot switched off or out of the group (93004, 93008). The rest is tried again,
 * such as 45009, more than 20 a minute.
 */
const refusals = [40008, 40058, 93000, 93004, 93008];

/** Markdown for a group's bot (developer.work.weixin.qq.com/document/path/91770); the key in the address is all that guards it. */
export const wecomFormat: WebhookFormat = {
  request: (notice, url) => {
    const { title, tone, why, fields, commands } = messageFor(notice);
    const head = `### <font color="${colors[tone]}">${plain(title)}</font>`;
    const rest = [
      ...commands.map(({ label, command }) => `**${label}**: \`${command}\``),
      ...fields.map((field) => markdownField(field, plain)),
    ];
    const room = MAX_BYTES - Buffer.byteLength([head, '', ...rest].join('\n'));
    const content = [head, ...(why === '' ? [] : [truncateBytes(plain(why), Math.max(0, room))]), ...rest].join('\n');
    const markdown = { content: truncateBytes(content, MAX_BYTES) };
    return { url, headers: jsonHeaders, body: JSON.stringify({ msgtype: 'markdown', markdown }) };
  },
  judge: (body) => judgeByCode(body, { code: 'errcode', message: 'errmsg', refusals }),
};

/** WeCom's Markdown has no escapes: what would be markup there, or a mention, is parted by a character that does not show. */
function plain(text: string): string {
  return text.replaceAll('`', "'").replaceAll(/<(?=\S)|\*(?=\*)|\](?=\()/g, '$&\u200B');
}

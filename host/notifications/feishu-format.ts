import { createHmac } from 'node:crypto';
import { messageFor, type Message, type Tone } from './message.ts';
import { jsonHeaders, judgeByCode, type WebhookFormat } from './webhook.ts';

const colors: Record<Tone, string> = { good: 'green', bad: 'red', asking: 'orange', neutral: 'blue' };

/**
 * Bad token (19001), bot switched off (19007), signature (19021), sender's address (19022) and keyword (19024). The rest is tried
 * again, such as 11232 and 9499, too many at once.
 */
const refusals = [19001, 19002, 19007, 19021, 19022, 19024];

/**
 * A card for a custom bot of a group in Feishu or Lark (open.feishu.cn/document/client-docs/bot-v3/add-custom-bot). All is plain
 * text, in which nothing is markup; a body may have 20 kB, and none comes near.
 */
export const feishuFormat: WebhookFormat = {
  request: (notice, url, secret, at) => {
    const message = messageFor(notice);
    const card = {
      config: { wide_screen_mode: true },
      header: { template: colors[message.tone], title: { tag: 'plain_text', content: message.title } },
      elements: elementsOf(message),
    };
    const timestamp = String(Math.floor(at.getTime() / 1000));
    const signed = secret === undefined ? {} : { timestamp, sign: sign(timestamp, secret) };
    return { url, headers: jsonHeaders, body: JSON.stringify({ ...signed, msg_type: 'interactive', card }) };
  },
  judge: (body) => judgeByCode(body, { code: 'code', message: 'msg', refusals }),
};

/** The key is the timestamp and the secret, and nothing is signed with it. */
function sign(timestamp: string, secret: string): string {
  return createHmac('sha256', `${timestamp}\n${secret}`).digest('base64');
}

function elementsOf({ why, fields, commands }: Message): object[] {
  const texts = fields.filter(({ isLink }) => isLink !== true);
  const links = fields.filter(({ isLink }) => isLink === true);
  return [
    ...(why === '' ? [] : [paragraph(why)]),
    ...texts.map(({ label, value }) => paragraph(`${label}: ${value}`)),
    ...commands.map(({ label, command }) => paragraph(`${label}:\n${command}`)),
    ...(links.length === 0 ? [] : [{ tag: 'action', actions: links.map(button) }]),
  ];
}

function paragraph(content: string): object {
  return { tag: 'div', text: { tag: 'plain_text', content } };
}

function button({ label, value }: Message['fields'][number]): object {
  return { tag: 'button', text: { tag: 'plain_text', content: label }, url: value, type: 'default' };
}

import { messageFor, truncate, type Message, type Tone } from './message.ts';
import { jsonHeaders, type WebhookFormat } from './webhook.ts';

/** Of Slack's block kit: a header takes 150 characters, a text of a rich text block 3000. */
const MAX_HEADER = 150;
const MAX_TEXT = 3000;

const marks: Record<Tone, string> = { good: '✅', bad: '❌', asking: '✋', neutral: 'ℹ️' };

/**
 * For an incoming webhook (docs.slack.dev/messaging/sending-messages-using-incoming-webhooks). Names and reasons stand in plain and
 * rich text, where nothing is markup; only in `text`, which notifications show, have three characters to be escaped.
 */
export const slackFormat: WebhookFormat = {
  request: (notice, url) => {
    const message = messageFor(notice);
    const title = `${marks[message.tone]} ${message.title}`;
    const text = escape([title, message.why].filter((part) => part !== '').join(': '));
    const blocks = [
      { type: 'header', text: { type: 'plain_text', text: truncate(title, MAX_HEADER), emoji: true } },
      { type: 'rich_text', elements: [section(message), ...message.commands.flatMap(command)] },
    ];
    return { url, headers: jsonHeaders, body: JSON.stringify({ text, mrkdwn: false, blocks }) };
  },
  // An incoming webhook says no with a status of its own.
  judge: (body) => (body === 'ok' ? { kind: 'taken' } : { kind: 'later', why: `it answered ${body.slice(0, 200)}` }),
};

function section({ why, fields }: Message): object {
  const lines = [
    ...(why === '' ? [] : [text(`${why}\n`)]),
    ...fields.flatMap(({ label, value, isLink }) => [
      { ...text(`${label}: `), style: { bold: true } },
      isLink === true ? { type: 'link', url: value, text: value } : text(value),
      text('\n'),
    ]),
  ];
  return { type: 'rich_text_section', elements: lines };
}

function command({ label, command }: Message['commands'][number]): object[] {
  return [
    { type: 'rich_text_section', elements: [{ ...text(label), style: { bold: true } }] },
    { type: 'rich_text_preformatted', elements: [text(command)] },
  ];
}

function text(value: string): { type: 'text'; text: string } {
  return { type: 'text', text: truncate(value, MAX_TEXT) };
}

function escape(value: string): string {
  return value.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

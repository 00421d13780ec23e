import { describe, expect, test } from '@jest/globals';
import { runEvents } from '../../../configs/notify-schema.ts';
import { trainerPython } from '../../../host/checkout.ts';
import { dingtalkFormat } from '../../../host/notifications/dingtalk-format.ts';
import { feishuFormat } from '../../../host/notifications/feishu-format.ts';
import { jsonFormat, type JsonNotification } from '../../../host/notifications/json-format.ts';
import { messageFor } from '../../../host/notifications/message.ts';
import type { NoticeFromHost } from '../../../host/notifications/notice.ts';
import { slackFormat } from '../../../host/notifications/slack-format.ts';
import type { WebhookFormat } from '../../../host/notifications/webhook.ts';
import { wecomFormat } from '../../../host/notifications/wecom-format.ts';
import { runProgram } from '../../../host/subprocess.ts';

const formats: [string, WebhookFormat][] = [
  ['json', jsonFormat],
  ['slack', slackFormat],
  ['feishu', feishuFormat],
  ['dingtalk', dingtalkFormat],
  ['wecom', wecomFormat],
];
const url = 'https://hooks.example.com/bot?key=abc';
const at = new Date('2026-11-24T14:52:48.123Z');

const notice: NoticeFromHost = {
  ...{ id: '0197-awaitingApproval', event: 'deployed', runName: 'nightly', host: 'gpu-1', namespace: 'default' },
  ...{ at: '2026-11-24T14:52:48.000Z', startedAt: '2026-11-24T12:47:48.000Z', why: null },
  ...{ config: 'cards', deployment: 'cards', approvalHours: null },
  evaluation: { metric: 'exact', rows: 52, candidate: 0.981, base: 0.25, champion: 0.97 },
  ...{ apiUrl: 'http://10.0.0.1:8000', pageUrl: 'http://10.0.0.1:7860' },
  ...{ runDirectory: '/var/lib/temper/runs/nightly', report: '/var/lib/temper/runs/nightly/report.html' },
  reportUrl: null,
};

const bodyOf = (format: WebhookFormat, changes: Partial<NoticeFromHost> = {}, secret?: string) =>
  format.request({ ...notice, ...changes }, url, secret, at).body;

describe('a notice says what a person has to know', () => {
  test('in words', () => {
    const { title, tone, fields } = messageFor(notice);
    expect([title, tone]).toEqual(['Run nightly is in service', 'good']);
    expect(fields.map(({ label, value }) => `${label}: ${value}`)).toEqual([
      'Score: 98.1 % exact match on 52 held-out rows; champion 97.0 %, base 25.0 %',
      'Took: 2 h 5 min',
      'Config: cards',
      'Deployment: cards',
      'Host: gpu-1',
      'Report: /var/lib/temper/runs/nightly/report.html',
      'Chat page: http://10.0.0.1:7860',
      'API: http://10.0.0.1:8000',
    ]);
  });

  test('with the address of the report where one is served', () => {
    const { fields } = messageFor({ ...notice, reportUrl: 'http://gpu-1:9467/runs/nightly' });
    expect(fields.filter(({ label }) => label === 'Report')).toEqual([
      { label: 'Report', value: 'http://gpu-1:9467/runs/nightly', isLink: true },
    ]);
  });

  test.each(formats)('%s holds all of it', (_, format) => {
    const body = bodyOf(format, { why: 'because it was better' });
    for (const part of ['nightly', 'because it was better', 'gpu-1', 'report.html', 'http://10.0.0.1:7860'])
      expect(body).toContain(part);
    expect(body).toMatch(/98\.1 %|0\.981/);
  });

  test.each(formats)('%s gives the command that approves', (_, format) => {
    const body = bodyOf(format, { event: 'awaitingApproval', approvalHours: 72, namespace: 'team' });
    expect(body.replaceAll('\\\\', '')).toContain(
      'temporal workflow update execute --namespace team --workflow-id nightly --name approve --input',
    );
    expect(body).toContain('--name reject');
  });

  test.each(runEvents)('each service has a title for %s', (event) => {
    for (const [, format] of formats) expect(bodyOf(format, { event })).toMatch(/nightly/);
  });
});

test('the JSON body keeps to version 1', () => {
  const body = JSON.parse(bodyOf(jsonFormat, { event: 'awaitingApproval', approvalHours: 72 })) as JsonNotification;
  expect(body).toEqual({
    ...{ version: 1, id: notice.id, type: 'run.awaitingApproval', timestamp: notice.at },
    data: {
      ...{ run: 'nightly', why: null, config: 'cards', deployment: 'cards', host: 'gpu-1', namespace: 'default' },
      ...{ startedAt: notice.startedAt, durationSeconds: 7500, evaluation: notice.evaluation },
      ...{
        apiUrl: notice.apiUrl,
        pageUrl: notice.pageUrl,
        runDirectory: notice.runDirectory,
        report: notice.report,
        reportUrl: null,
      },
      approval: {
        hours: 72,
        approve: expect.stringContaining('--workflow-id nightly --name approve'),
        reject: expect.stringContaining('--workflow-id nightly --name reject'),
      },
    },
  });
});

// Vectors by openssl: `printf '<timestamp>\n<secret>' | openssl dgst -sha256 -hmac <secret> -binary | base64` and the like.
describe('signatures are those of the service', () => {
  test('feishu: an empty message under timestamp and secret, in seconds', () => {
    expect(JSON.parse(bodyOf(feishuFormat, {}, 'feishu-secret-1'))).toMatchObject({
      timestamp: '1795531968',
      sign: 'kIExDrorPHvmdnnCNQ7ivm4BeScLxkj9c1gH7ECAnQo=',
    });
  });

  test('dingtalk: timestamp and secret, in milliseconds, in the address beside what is there', () => {
    const signed = dingtalkFormat.request(notice, url, 'SECdingtalk-secret-1', at).url;
    expect(signed).toBe(`${url}&timestamp=1795531968123&sign=FX1gY4vyWKFNeTlkVhHe89BpLzki4DuBt61FJmjXWQE%3D`);
  });

  test('json: Standard Webhooks, as Python checks it', async () => {
    const { headers, body } = jsonFormat.request(notice, url, 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwxx==', at);
    const program = `import base64, hashlib, hmac, sys
content = f"{sys.argv[1]}.{sys.argv[2]}.".encode() + sys.stdin.buffer.read()
print("v1," + base64.b64encode(hmac.new(base64.b64decode(sys.argv[3]), content, hashlib.sha256).digest()).decode())`;
    const key = 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwxx==';
    const args = ['-c', program, headers['webhook-id'] ?? '', headers['webhook-timestamp'] ?? '', key];
    const { stdout } = await runProgram(trainerPython, args, { input: body });
    expect(headers['webhook-timestamp']).toBe('1795531968');
    expect(headers['webhook-signature']).toBe(stdout.trim());
  });

  test.each(formats)('without a secret %s signs nothing', (_, format) => {
    const { url: target, headers, body } = format.request(notice, url, undefined, at);
    expect([target, headers['webhook-signature']]).toEqual([url, undefined]);
    expect(body).not.toContain('"sign"');
  });

  test.each(['short', 'whsec_c2hvcnQ=', 'whsec_not base64 at all, though long enough'])('json refuses %j', (secret) => {
    expect(() => bodyOf(jsonFormat, {}, secret)).toThrow(expect.objectContaining({ name: 'ConfigError' }));
  });
});

describe('nothing in a reason is taken for markup', () => {
  const why = 'a **bold** [link](http://evil) <!channel> <@u1> `code` & <font color="info">';

  test('slack: it stands in rich text, and is escaped in the fallback', () => {
    const { text, blocks } = JSON.parse(bodyOf(slackFormat, { why })) as { text: string; blocks: { type: string }[] };
    expect(text).toContain('&lt;!channel&gt;');
    expect(text).not.toMatch(/[<>]/);
    expect(blocks.map(({ type }) => type)).toEqual(['header', 'rich_text']);
    expect(JSON.stringify(blocks)).not.toContain('mrkdwn');
  });

  test('feishu: every text of the card is plain', () => {
    const { card } = JSON.parse(bodyOf(feishuFormat, { why })) as { card: object };
    expect(JSON.stringify(card)).not.toContain('lark_md');
    expect(JSON.stringify(card)).toContain('<!channel>');
  });

  test('dingtalk: it is escaped, and names keep their underscores', () => {
    const body = JSON.parse(bodyOf(dingtalkFormat, { why, runName: 'my_run' })) as { markdown: { text: string } };
    expect(body.markdown.text).toContain('a \\*\\*bold\\*\\* \\[link\\](http://evil) \\<!channel\\>');
    expect(body.markdown.text).toContain('Run my_run is');
  });

  test('wecom: markup is parted', () => {
    const { markdown } = JSON.parse(bodyOf(wecomFormat, { why })) as { markdown: { content: string } };
    expect(markdown.content).not.toMatch(/\*\*bold|\[link\]\(|<@|<!|`code`|<font color="info">(?=\n)/);
  });
});

describe('a long reason is cut at what the service takes, between characters', () => {
  const why = '训练失败：显存不足 🧨 '.repeat(2000);
  const runName = 'x'.repeat(200);

  test.each<[string, WebhookFormat, number]>([
    ['feishu', feishuFormat, 20_000],
    ['dingtalk', dingtalkFormat, 20_000],
    ['slack', slackFormat, 40_000],
  ])('%s', (_, format, bytes) => {
    const body = bodyOf(format, { why, runName });
    expect(Buffer.byteLength(body)).toBeLessThan(bytes);
    expect(body).toContain('训练失败');
    expect(body).not.toMatch(/[\uD800-\uDBFF](?![\uDC00-\uDFFF])/);
  });

  test.each(['deployed', 'awaitingApproval'] as const)('wecom, in bytes: %s', (event) => {
    const content = (JSON.parse(bodyOf(wecomFormat, { why, runName, event })) as { markdown: { content: string } })
      .markdown.content;
    expect(Buffer.byteLength(content)).toBeLessThanOrEqual(4096);
    expect(content).toContain('训练失败');
    expect(content).toContain('gpu-1');
    expect(content).not.toContain('\uFFFD');
  });

  test("slack's header", () => {
    const { blocks } = JSON.parse(bodyOf(slackFormat, { runName })) as { blocks: { text: { text: string } }[] };
    expect([...(blocks[0]?.text.text ?? '')]).toHaveLength(150);
  });
});

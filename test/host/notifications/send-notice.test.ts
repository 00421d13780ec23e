import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { createHmac } from 'node:crypto';
import { notifyEntry } from '../../../configs/notify-schema.ts';
import { receiverItems } from '../../../host/notifications/receiver-items.ts';
import { sampleNotice } from '../../../host/notifications/sample-notice.ts';
import type { NotificationError } from '../../../host/notifications/send-notice.ts';
import { sendNotice } from '../../../host/notifications/send-notice.ts';
import { Receiver, type Answer, type Received } from '../../support/receiver.ts';

const key = 'key-of-the-hook-93b1';
const secrets = {
  json: `whsec_${Buffer.from('a secret of thirty-two bytes .....').toString('base64')}`,
  feishu: 'feishu-secret-51aa',
  dingtalk: 'SECdingtalk-secret-77',
};
const notice = sampleNotice('rejected');
let receiver: Receiver;

beforeEach(async () => {
  receiver = await new Receiver().start();
});
afterEach(async () => receiver.stop());

const send = (format: string, options: { secret?: string; url?: string; timeoutMs?: number } = {}) => {
  const { secret, url = receiver.url(`/hook/${key}?access_token=${key}`), timeoutMs = 2000 } = options;
  const entry = notifyEntry.parse({ format, urlEnv: 'HOOK', ...(secret && { secretEnv: 'HOOK_SECRET' }) });
  return sendNotice(entry, notice, { timeoutMs, env: { HOOK: url, HOOK_SECRET: secret } });
};

const failure = async (sending: Promise<unknown>) => {
  const error: unknown = await sending.catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(Error);
  expect(JSON.stringify([(error as Error).message, error])).not.toContain(key);
  return error as NotificationError;
};

describe('a receiver that checks signatures as the service does takes what is sent', () => {
  test('json, by Standard Webhooks', async () => {
    await send('json', { secret: secrets.json });
    const { headers, body } = receiver.received[0] as Received;
    const signed = `${String(headers['webhook-id'])}.${String(headers['webhook-timestamp'])}.${body}`;
    const own = createHmac('sha256', Buffer.from(secrets.json.slice(6), 'base64'))
      .update(signed)
      .digest('base64');
    expect(headers['webhook-signature']).toBe(`v1,${own}`);
    expect(headers['webhook-id']).toBe(notice.id);
    expect(Math.abs(Date.now() / 1000 - Number(headers['webhook-timestamp']))).toBeLessThan(60);
    expect(headers['content-type']).toMatch(/^application\/json/);
  });

  test('feishu', async () => {
    receiver.answers = [{ body: '{"code":0,"msg":"success"}' }];
    await send('feishu', { secret: secrets.feishu });
    const [body] = receiver.bodies<{ timestamp: string; sign: string; msg_type: string }>();
    const own = createHmac('sha256', `${body?.timestamp}\n${secrets.feishu}`).update('').digest('base64');
    expect(body).toMatchObject({ sign: own, msg_type: 'interactive' });
  });

  test('dingtalk', async () => {
    receiver.answers = [{ body: '{"errcode":0,"errmsg":"ok"}' }];
    await send('dingtalk', { secret: secrets.dingtalk });
    const query = receiver.received[0]?.query;
    const signed = `${query?.get('timestamp')}\n${secrets.dingtalk}`;
    expect(query?.get('sign')).toBe(createHmac('sha256', secrets.dingtalk).update(signed).digest('base64'));
    expect(query?.get('access_token')).toBe(key);
  });
});

describe('what may get better is told apart from what will not', () => {
  test.each<[string, string, Answer]>([
    ['a server in trouble', 'json', { status: 500, body: `oops at /hook/${key}` }],
    ['a gateway', 'slack', { status: 502 }],
    ['too many requests', 'slack', { status: 429 }],
    ["Feishu's limit", 'feishu', { body: '{"code":11232,"msg":"frequency limited"}' }],
    ["DingTalk's limit", 'dingtalk', { body: '{"errcode":130101,"errmsg":"send too fast"}' }],
    ["WeCom's limit", 'wecom', { body: '{"errcode":45009,"errmsg":"api freq out of limit"}' }],
    ["a proxy's page", 'wecom', { body: '<html>login</html>' }],
    ['a connection that is cut', 'json', 'drop'],
    ['no answer', 'json', 'hang'],
  ])('%s is tried again', async (_, format, answer) => {
    receiver.answers = [answer];
    const error = await failure(send(format, { timeoutMs: 300 }));
    expect(error.name).toBe('NotificationError');
    expect(error.message).toContain(`The ${format} webhook of HOOK (127.0.0.1:${receiver.port})`);
  });

  test.each<[string, string, Answer, string]>([
    ['a webhook that is gone', 'slack', { status: 404, body: 'no_service' }, 'HTTP 404 no_service'],
    ['a body that is not understood', 'slack', { status: 400, body: 'invalid_blocks' }, 'HTTP 400 invalid_blocks'],
    ['another address', 'json', { status: 301 }, 'HTTP 301'],
    ["Feishu's signature", 'feishu', { body: '{"code":19021,"msg":"sign match fail"}' }, 'code 19021: sign match fail'],
    ["DingTalk's keyword", 'dingtalk', { body: '{"errcode":310000,"errmsg":"keywords not in content"}' }, '310000'],
    ["WeCom's key", 'wecom', { body: `{"errcode":93000,"errmsg":"invalid webhook ${key}"}` }, 'errcode 93000'],
  ])('%s is not', async (_, format, answer, words) => {
    receiver.answers = [answer];
    const error = await failure(send(format));
    expect(error.name).toBe('ConfigError');
    expect(error.message).toContain(words);
  });

  test('nobody listens', async () => {
    const url = receiver.url(`/hook/${key}`);
    await receiver.stop();
    expect((await failure(send('json', { url }))).name).toBe('NotificationError');
  });

  test.each<[string, number]>([
    ['7', 7],
    [new Date(Date.now() + 90_000).toUTCString(), 90],
    ['999999', 3600],
  ])('Retry-After %s is kept to', async (after, seconds) => {
    receiver.answers = [{ status: 429, headers: { 'retry-after': after } }];
    expect(Math.abs(((await failure(send('slack'))).seconds ?? 0) - seconds)).toBeLessThanOrEqual(2);
  });
});

describe('before hours of training the environment is looked at', () => {
  test.each<[string, Record<string, string>, Record<string, string>, string | undefined]>([
    ['all is there', { format: 'json' }, { HOOK: 'https://a.b/c' }, undefined],
    ['the address is missing', { format: 'slack' }, {}, "HOOK is not set in the worker's environment"],
    ['the address is none', { format: 'slack' }, { HOOK: key }, 'what HOOK holds is no http or https address'],
    [
      'the secret is missing',
      { format: 'feishu', secretEnv: 'HOOK_SECRET' },
      { HOOK: 'https://a.b/c' },
      'HOOK_SECRET is not set',
    ],
    [
      'the secret is none',
      { format: 'json', secretEnv: 'HOOK_SECRET' },
      { HOOK: 'https://a.b/c', HOOK_SECRET: key },
      'whsec_ with 24 to 64 bytes',
    ],
  ])('%s', (_, entry, env, found) => {
    const [item] = receiverItems([notifyEntry.parse({ urlEnv: 'HOOK', ...entry })], env);
    expect(item?.verdict).toBe(found === undefined ? 'ok' : 'error');
    if (found !== undefined) expect(item?.found).toContain(found);
    expect(JSON.stringify(item)).not.toContain(key);
  });
});

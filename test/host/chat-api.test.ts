import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { ask, questionOf, type ChatRow } from '../../host/chat-api.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

interface Asked {
  headers: IncomingHttpHeaders;
  url: string | undefined;
  body: { model: string; messages: { role: string; content: unknown }[] } & Record<string, unknown>;
}

let asked: Asked[] = [];
let respond: (response: ServerResponse) => void;
let apiUrl: string;

const server = createServer((request, response) => {
  void text(request).then((body) => {
    asked.push({ headers: request.headers, url: request.url, body: JSON.parse(body) as Asked['body'] });
    respond(response);
  });
});

beforeAll(async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  apiUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(() => {
  server.closeAllConnections();
  server.close();
});

beforeEach(() => {
  asked = [];
  respond = (response) => response.end(JSON.stringify({ choices: [{ message: { content: 'ABC-12' } }] }));
});

describe('pictures stand where the text has them', () => {
  const folder = newFolder();
  const picture = (name: string) => {
    writeFileSync(join(folder, name), name);
    return join(folder, name);
  };
  const [a, b, c] = [picture('a.png'), picture('b.JPG'), picture('c.webp')];
  const image = (mime: string, name: string) => ({
    type: 'image_url',
    image_url: { url: `data:image/${mime};base64,${Buffer.from(name).toString('base64')}` },
  });
  const [imageA, imageB, imageC] = [image('png', 'a.png'), image('jpeg', 'b.JPG'), image('webp', 'c.webp')];
  const words = (value: string) => ({ type: 'text', text: value });

  test.each<[string, string[], unknown]>([
    ['What is this?', [], 'What is this?'],
    ['<image>What is this?', [a], [imageA, words('What is this?')]],
    ['Look: <image>', [a], [words('Look: '), imageA]],
    ['<image><image>Compare.', [a, b], [imageA, imageB, words('Compare.')]],
    [
      'First <image> then <image>, last <image>.',
      [c, a, b],
      [words('First '), imageC, words(' then '), imageA, words(', last '), imageB, words('.')],
    ],
  ])('%s', async (content, images, parts) => {
    await ask({ messages: [{ role: 'user', content }], images }, { apiUrl, model: 'demo' });
    expect(asked[0]?.body.messages).toEqual([{ role: 'user', content: parts }]);
  });

  test('over several messages', async () => {
    const messages = [
      { role: 'system', content: 'Read badges.' },
      { role: 'user', content: '<image>This?' },
      { role: 'assistant', content: 'ABC-12' },
      { role: 'user', content: 'And <image>?' },
    ];
    await ask({ messages, images: [b, a] }, { apiUrl, model: 'demo' });
    expect(asked[0]?.body.messages.map((message) => message.content)).toEqual([
      'Read badges.',
      [imageB, words('This?')],
      'ABC-12',
      [words('And '), imageA, words('?')],
    ]);
  });
});

const row: ChatRow = {
  messages: [
    { role: 'user', content: 'Which number?' },
    { role: 'assistant', content: 'ABC-12' },
  ],
};

test("a row asks all but its last message, which is the answer that's expected", () => {
  expect(questionOf(row)).toEqual({ question: { messages: [row.messages[0]] }, expected: 'ABC-12' });
});

test('the answer is greedy and timed, by the model that was named', async () => {
  const answer = await ask(questionOf(row).question, { apiUrl, model: 'demo', maxTokens: 64 });
  expect(answer).toEqual({ text: 'ABC-12', latencyMs: expect.any(Number) });
  expect(answer.latencyMs).toBeGreaterThan(0);
  expect(asked[0]).toMatchObject({
    url: '/v1/chat/completions',
    body: { model: 'demo', temperature: 0, max_tokens: 64 },
  });
  expect(asked[0]?.headers.authorization).toBeUndefined();
});

test('a key is sent where there is one', async () => {
  await ask(row, { apiUrl, model: 'demo', apiKey: 'secret' });
  expect(asked[0]?.headers.authorization).toBe('Bearer secret');
});

test('a refusal names the address, the status and what was said', async () => {
  respond = (response) => response.writeHead(429).end('one at a time');
  await expect(ask(row, { apiUrl, model: 'demo' })).rejects.toThrow(`${apiUrl} answered 429: one at a time`);
});

test('an answer that is cancelled is not waited for', async () => {
  const cancel = new AbortController();
  const reason = new Error('cancelled');
  respond = () => cancel.abort(reason);
  await expect(ask(row, { apiUrl, model: 'demo', signal: cancel.signal })).rejects.toBe(reason);
});

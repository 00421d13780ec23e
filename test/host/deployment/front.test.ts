import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import { Agent, createServer, request, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Server } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  frontServes,
  pointedAt,
  pointFront,
  startFront,
  stopFront,
  untilDrained,
  type Front,
  type FrontOptions,
} from '../../../host/deployment/front.ts';
import { findHaproxy } from '../../../host/deployment/haproxy-program.ts';
import { portIsFree } from '../../../host/ports.ts';
import { processesWith, signal, type ProcessIdentity } from '../../../host/process-table.ts';
import { newFolder } from '../../fixtures/trainers/stand-in.ts';

const testWithHaproxy = findHaproxy() === undefined ? test.skip : test;
const abort = new AbortController();

let folder: string;
let fronts: Front[] = [];
let servers: Server[] = [];
let agent: Agent;

beforeEach(() => {
  folder = newFolder();
  agent = new Agent({ keepAlive: true });
});

afterEach(async () => {
  agent.destroy();
  for (const server of servers) server.close();
  await Promise.all(fronts.map(stopFront));
  [fronts, servers] = [[], []];
});

testWithHaproxy('both addresses reach their servers, with the request as it was', async () => {
  const front = await start();
  const [api, page] = [await serve('api'), await serve('page')];
  await pointFront(front, 'api', api.port);
  await pointFront(front, 'page', page.port);
  const body = 'a picture '.repeat(100_000);
  expect(await ask(front.api.url, { body, key: 'secret' })).toBe(`api POST Bearer secret ${body.length}`);
  expect(await ask(front.page.url)).toBe('page GET undefined 0');
  expect([await pointedAt(front, 'api'), await pointedAt(front, 'page')]).toEqual([api.port, page.port]);
});

testWithHaproxy('swaps under 20 clients lose no request and cut no stream', async () => {
  const front = await start();
  let champion = await serve('model 0');
  await pointFront(front, 'api', champion.port);
  const load = loadOf(front.api.url, 20);
  for (let swap = 1; swap <= 6; swap++) {
    await sleep(300);
    const candidate = await serve(`model ${swap}`);
    await pointFront(front, 'api', candidate.port);
    expect(await untilDrained(front, 'api', champion.port, { timeoutMs: 5_000, signal: abort.signal })).toBe(true);
    expect(champion.requestsInFlight()).toBe(0);
    champion.server.close();
    champion = candidate;
  }
  const { answers, failures } = await load.end();
  expect(failures).toEqual([]);
  expect(answers.length).toBeGreaterThan(100);
  expect(new Set(answers).size).toBe(7);
});

testWithHaproxy('a held request waits for the next server, and none is refused', async () => {
  const front = await start();
  expect(await pointedAt(front, 'api')).toBeNull();
  const early = ask(front.api.url);
  const [one, other] = [await serve('one'), await serve('other')];
  await pointFront(front, 'api', one.port);
  expect(await early).toMatch(/^one /);
  const load = loadOf(front.api.url, 5);
  await pointFront(front, 'api', null);
  expect(await untilDrained(front, 'api', one.port, { timeoutMs: 5_000, signal: abort.signal })).toBe(true);
  one.server.close();
  const body = 'a picture '.repeat(100_000);
  const held = Promise.all([ask(front.api.url), ask(front.api.url, { body }), ask(`${front.api.url}/stream`)]);
  expect(await Promise.race([held, sleep(1_500, 'still held')])).toBe('still held');
  await pointFront(front, 'api', other.port);
  for (const answer of await held) expect(answer).toMatch(/^other /);
  expect((await load.end()).failures).toEqual([]);
});

testWithHaproxy('an address is drained when the stream in flight has ended, not before', async () => {
  const front = await start();
  const [one, other] = [await serve('one', { chunkMs: 100 }), await serve('other')];
  await pointFront(front, 'api', one.port);
  const stream = ask(`${front.api.url}/stream`);
  while (one.requestsInFlight() === 0) await sleep(20);
  for (const port of [other.port, null, other.port]) await pointFront(front, 'api', port);
  expect(await untilDrained(front, 'api', one.port, { timeoutMs: 200, signal: abort.signal })).toBe(false);
  expect(await ask(front.api.url)).toMatch(/^other /);
  expect(await untilDrained(front, 'api', one.port, { timeoutMs: 10_000, signal: abort.signal })).toBe(true);
  expect(await Promise.race([stream, sleep(500, 'cut')])).toBe(whole('one'));
});

testWithHaproxy('a HAProxy that was killed comes back at the same ports, pointing at the same', async () => {
  const options = optionsOf();
  const front = await start(options);
  const [api, page] = [await serve('api'), await serve('page')];
  await Promise.all([pointFront(front, 'api', api.port), pointFront(front, 'page', page.port)]);
  signal(front as ProcessIdentity, 'SIGKILL');
  while (await frontServes(front)) await sleep(20);
  await expect(pointFront(front, 'page', null)).rejects.toMatchObject({ name: 'DeploymentError' });
  const again = await start(options);
  expect(again).toMatchObject({ api: front.api, page: front.page });
  expect([await pointedAt(again, 'api'), await pointedAt(again, 'page')]).toEqual([api.port, null]);
  expect(await ask(again.api.url)).toMatch(/^api /);
});

testWithHaproxy('started twice it is the same process, started on another address another one', async () => {
  const options = optionsOf();
  const front = await start(options);
  expect(await start(options)).toEqual(front);
  const { port } = await serve('api');
  await pointFront(front, 'api', port);
  const moved = await start({ ...options, host: '127.0.0.2' });
  expect(moved.api.url).toMatch(/^http:\/\/127\.0\.0\.2:/);
  expect(await ask(moved.api.url)).toMatch(/^api /);
  expect([await frontServes(front), haproxies().length]).toEqual([false, 1]);
});

testWithHaproxy('what a crash between start and record has left is stopped first', async () => {
  const options = optionsOf();
  const front = await start(options);
  rmSync(join(front.folder, 'front.json'));
  const again = await start({ ...options, apiPort: front.api.port });
  expect(again.api).toEqual(front.api);
  expect(await frontServes(front)).toBe(false);
  expect(haproxies()).toHaveLength(1);
});

testWithHaproxy('a taken port is one sentence that names it', async () => {
  const { port } = await serve('another program');
  const taken = startFront({ ...optionsOf(), apiPort: port });
  await expect(taken).rejects.toMatchObject({ name: 'DeploymentError' });
  await expect(taken).rejects.toThrow(`127.0.0.1:${port}: another program does. Stop that program`);
  const elsewhere = startFront({ ...optionsOf(), host: '192.0.2.1' });
  await expect(elsewhere).rejects.toThrow('192.0.2.1 is no address of this host');
  expect(haproxies()).toEqual([]);
});

testWithHaproxy('stopped, it finishes what is in flight and leaves nothing running', async () => {
  const front = await start();
  const one = await serve('one', { chunkMs: 50 });
  await pointFront(front, 'api', one.port);
  const stream = ask(`${front.api.url}/stream`);
  while (one.requestsInFlight() === 0) await sleep(20);
  await stopFront(front);
  expect(await stream).toBe(whole('one'));
  expect([await frontServes(front), haproxies()]).toEqual([false, []]);
  expect([await portIsFree(front.api.port), await portIsFree(front.page.port)]).toEqual([true, true]);
  expect(existsSync(join(front.folder, 'front.json'))).toBe(false);
});

testWithHaproxy('a start that is aborted leaves nothing running', async () => {
  const starting = startFront({ ...optionsOf(), signal: AbortSignal.timeout(30) });
  await expect(starting).rejects.toMatchObject({ name: 'TimeoutError' });
  expect(haproxies()).toEqual([]);
});

testWithHaproxy('it listens on IPv6 and in a folder whose path is too long for a socket', async () => {
  if (!(await portIsFree(0, '::1'))) return;
  const front = await start({ ...optionsOf(), host: '::1', folder: join(folder, 'long'.repeat(40)) });
  await pointFront(front, 'api', (await serve('api')).port);
  expect(front.api.url).toBe(`http://[::1]:${front.api.port}`);
  expect(await ask(front.api.url)).toMatch(/^api /);
});

function optionsOf(): FrontOptions {
  const ports = { host: '127.0.0.1', apiPort: 0, pagePort: 0 };
  return { name: 'demo', home: folder, folder, runtime: 'process', signal: abort.signal, ...ports };
}

async function start(options = optionsOf()): Promise<Front> {
  const front = await startFront(options);
  fronts.push(front);
  return front;
}

function haproxies(): ProcessIdentity[] {
  return processesWith(join(folder, 'front/haproxy.cfg'));
}

interface Backend {
  server: Server;
  port: number;
  requestsInFlight: () => number;
}

/** A model server: it tells what it was sent, or streams ten chunks from `/stream`. */
async function serve(name: string, { chunkMs = 15 } = {}): Promise<Backend> {
  let inFlight = 0;
  const server = createServer((asked, answer) => {
    inFlight += 1;
    answer.on('close', () => (inFlight -= 1));
    void (asked.url === '/stream' ? stream(name, chunkMs, answer) : tell(name, asked, answer));
  });
  server.listen({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  servers.push(server);
  return { server, port: (server.address() as AddressInfo).port, requestsInFlight: () => inFlight };
}

async function tell(name: string, asked: IncomingMessage, answer: ServerResponse): Promise<void> {
  const length = (await textOf(asked)).length;
  answer.end(`${name} ${asked.method} ${asked.headers.authorization} ${length}`);
}

async function stream(name: string, chunkMs: number, answer: ServerResponse): Promise<void> {
  for (const chunk of chunks(name)) {
    answer.write(chunk);
    await sleep(chunkMs);
  }
  answer.end();
}

function chunks(name: string): string[] {
  return Array.from({ length: 10 }, (_, index) => `${name} data ${index}\n`);
}

function whole(name: string): string {
  return chunks(name).join('');
}

/** The text of a 200 that came whole; connections are kept alive. */
async function ask(url: string, { body = '', key }: { body?: string; key?: string } = {}): Promise<string> {
  const method = body === '' ? 'GET' : 'POST';
  const headers = key === undefined ? {} : { authorization: `Bearer ${key}` };
  const asking = request(url, { method, headers, agent }).end(body);
  const [answer] = (await once(asking, 'response')) as [IncomingMessage];
  const text = await textOf(answer);
  if (answer.statusCode !== 200) throw new Error(`${answer.statusCode} ${text}`);
  return text;
}

async function textOf(message: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of message.setEncoding('utf8')) text += chunk as string;
  return text;
}

/** Clients that ask one question after the other, half of them for a stream. */
function loadOf(url: string, clients: number) {
  const [answers, failures]: [string[], string[]] = [[], []];
  let isOver = false;
  const client = async (index: number) => {
    while (!isOver) {
      const isStream = index % 2 === 0;
      const answer = isStream ? ask(`${url}/stream`) : ask(url, { body: 'question '.repeat(5_000) });
      await answer.then(
        (text) => {
          const name = text.slice(0, text.indexOf(isStream ? ' data' : ' POST'));
          if (text === (isStream ? whole(name) : `${name} POST undefined 45000`)) answers.push(name);
          else failures.push(`half an answer: ${text}`);
        },
        (error: unknown) => failures.push(String(error)),
      );
      await sleep(5);
    }
  };
  const running = Array.from({ length: clients }, (_, index) => client(index));
  const end = async () => {
    isOver = true;
    await Promise.all(running);
    return { answers, failures };
  };
  return { end };
}

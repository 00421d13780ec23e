import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { trace } from '../../cli/trace.ts';
import { recordDeployment, type Deployment } from '../../host/deployment/deployments.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { makeFinishedRun, type FinishedRun } from '../support/finished-run.ts';

const before = { ...process.env };
let home: string;
let made: FinishedRun;
let printed: string[];
let model: Server | undefined;

beforeEach(async () => {
  home = newFolder();
  made = await makeFinishedRun(home);
  printed = [];
  process.env.TEMPER_HOME = home;
  process.env.PATH = `${home}:${before.PATH}`;
  jest.spyOn(console, 'log').mockImplementation((line: string) => void printed.push(line));
});

afterEach(() => {
  process.env = { ...before };
  process.exitCode = 0;
  jest.restoreAllMocks();
  model?.close();
});

/** A stand-in for the docker command that knows one container, `api`. */
function docker(labels: Record<string, string>): void {
  const script = `#!/bin/sh\ncase "$*" in\n*" api") printf '%s' '${JSON.stringify(labels)}';;\n*) echo 'Error: No such container' >&2; exit 1;;\nesac\n`;
  writeFileSync(join(home, 'docker'), script);
  chmodSync(join(home, 'docker'), 0o755);
}

/** A stand-in for a served model; what it is from it says only to who has the key. */
async function serve(facts: object, key?: string): Promise<string> {
  const server = createServer(({ url, headers }, response) => {
    const isKnown = key === undefined || headers.authorization === `Bearer ${key}`;
    response.statusCode = url === '/health' ? 200 : 404;
    response.end(JSON.stringify(isKnown ? { model: 'cards', ...facts } : { model: 'cards' }));
  });
  model = server;
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const whole = { run: 'first', modelDigest: 'merged' };

function labels(more: Record<string, string> = {}): Record<string, string> {
  return { 'temper.home': home, 'temper.deployment': 'cards', ...more };
}

/** Record a deployment of the run at these addresses. */
async function record(apiUrl: string, apiKeyEnv?: string): Promise<void> {
  const api = { url: apiUrl, port: 1 };
  const page = { url: 'http://127.0.0.1:7860', port: 7860 };
  const champion = { runName: 'first', modelDigest: 'merged', serving: { apiKeyEnv } };
  await recordDeployment({ home, name: 'cards', api, page, champion } as Deployment);
}

test('a container leads to the rows that its model was trained on', async () => {
  docker(labels({ 'temper.run': 'first', 'temper.model-digest': 'merged' }));
  await trace('api', {});
  expect(printed[0]).toBe('ok      served   container api of the deployment cards: run first');
  expect(printed.join('\n')).toContain(`2 rows trained on: ${join(made.run.dataset, 'train.jsonl')}`);
  expect(printed.at(-1)).toMatch(/^The chain holds .*--verify/);
  expect(process.exitCode).not.toBe(1);
});

test('a broken link is named, and is the exit code', async () => {
  docker(labels({ 'temper.run': 'first', 'temper.model-digest': 'merged' }));
  rmSync(made.run.heldOut);
  await trace('api', { json: true });
  const { ok, links } = JSON.parse(printed.join('')) as { ok: boolean; links: { link: string; problems: string[] }[] };
  expect(ok).toBe(false);
  expect(links.filter(({ problems }) => problems.length > 0).map(({ link }) => link)).toEqual(['dataset']);
  expect(process.exitCode).toBe(1);
});

test("a page's container stands for the model that its deployment has in service", async () => {
  docker(labels());
  await record('http://127.0.0.1:1');
  await trace('api', {});
  expect(printed[0]).toMatch(/^ok {6}served .* run first$/);
});

test('an address is asked for its run, also by the address of the page and with the key of its deployment', async () => {
  const url = await serve(whole, 'secret');
  await record(url, 'SOME_KEY');
  process.env.SOME_KEY = 'secret';
  for (const address of [url, `${url}/`, url.replace('http://127.0.0.1', 'localhost'), 'http://localhost:7860/']) {
    printed = [];
    await trace(address, {});
    expect(printed[0]).toBe(`ok      served   cards at ${url}: run first`);
  }
});

test('who has no key is told how to give it', async () => {
  const url = await serve(whole, 'secret');
  await expect(trace(url, {})).rejects.toThrow(/does not say which run it is from.*--api-key-env/);
  process.env.MY_KEY = 'secret';
  await trace(url, { apiKeyEnv: 'MY_KEY' });
  expect(printed[0]).toMatch(/^ok/);
});

test.each<[string, string, RegExp]>([
  ['a container that is not there', 'nothing', /DeploymentError.*no container nothing/],
  ["a container that is not Temper's", 'api', /DeploymentError.*api is none of Temper's/],
  [
    'an address where nobody listens',
    'http://127.0.0.1:1',
    /DeploymentError.*Nothing answers at http:\/\/127\.0\.0\.1:1/,
  ],
  ['what is neither', 'a:b:c', /DeploymentError.*neither a container nor an address/],
])('%s is one sentence', async (_, target, message) => {
  docker({});
  const error = await trace(target, {}).catch((thrown: Error) => thrown);
  expect(String(error)).toMatch(message);
});

test('an address where something else answers is one sentence, too', async () => {
  const url = await serve({ model: undefined });
  await expect(trace(url, {})).rejects.toThrow(/is no model that Temper serves/);
});

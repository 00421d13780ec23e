import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { readFileSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { checkout, trainerPython } from '../../host/checkout.ts';
import { findHaproxy } from '../../host/deployment/haproxy-program.ts';
import { freePort, portIsFree } from '../../host/ports.ts';
import { identify, stopTree, type ProcessIdentity } from '../../host/process-table.ts';
import { runProgram, startDetached } from '../../host/subprocess.ts';
import { eventually, newFolder } from '../fixtures/trainers/stand-in.ts';
import { startServer } from '../support/temporal.ts';

// A Temporal server that is reached by TLS with client certificates and an API key alone: HAProxy asks for both in front of it.
jest.setTimeout(90_000);

const API_KEY = 'an-api-key-for-tests';

let env: TestWorkflowEnvironment;
let folder: string;
let address: string;
const started: ProcessIdentity[] = [];

beforeAll(async () => {
  env = await startServer();
  folder = newFolder();
  await runProgram(trainerPython, [join(checkout, 'test/fixtures/tls/make_certificates.py'), folder]);
  const port = await freePort();
  address = `localhost:${port}`;
  const haproxy = findHaproxy();
  if (haproxy === undefined) throw new Error('set-up has fetched no HAProxy');
  writeFileSync(join(folder, 'haproxy.cfg'), haproxyConfig(port, env.address));
  start(haproxy.file, ['-f', join(folder, 'haproxy.cfg')], haproxy.env);
  await eventually(async () => !(await portIsFree(port)));
});
afterAll(async () => {
  for (const each of started) await stopTree(each, 20_000);
  await env.teardown();
});

function haproxyConfig(port: number, server: string): string {
  return `
defaults
  mode http
  timeout connect 5s
  timeout client 2m
  timeout server 2m
frontend tls
  bind 127.0.0.1:${port} ssl crt ${folder}/server.pem ca-file ${folder}/ca.pem verify required alpn h2
  http-request deny deny_status 401 unless { req.hdr(authorization) -m str "Bearer ${API_KEY}" }
  default_backend temporal
backend temporal
  server temporal ${server} proto h2
`;
}

function start(file: string, args: string[], variables: Record<string, string>): void {
  const process = identify(startDetached(file, args, join(folder, 'log'), variables));
  if (process === undefined) throw new Error(readFileSync(join(folder, 'log'), 'utf8'));
  started.push(process);
}

function variables(changes: Record<string, string> = {}): Record<string, string> {
  return {
    ...{ TEMPER_HOME: join(folder, 'home'), TEMPORAL_ADDRESS: address, TEMPORAL_API_KEY: API_KEY },
    TEMPORAL_TLS_SERVER_CA_CERT_PATH: join(folder, 'ca.pem'),
    TEMPORAL_TLS_CLIENT_CERT_PATH: join(folder, 'client.pem'),
    TEMPORAL_TLS_CLIENT_KEY_PATH: join(folder, 'client.key'),
    ...changes,
  };
}

const temper = join(checkout, 'cli/temper.mjs');

test('a worker works through TLS with its certificate and API key, and a command finds it', async () => {
  start(process.execPath, [temper, 'worker'], variables());
  await eventually(() => readFileSync(join(folder, 'log'), 'utf8').includes('worker: ready'), 40_000);
  const done = await runProgram(process.execPath, [temper, 'hosts', '--json'], { env: variables() });
  expect({ exitCode: done.exitCode, stderr: done.stderr }).toMatchObject({ exitCode: 0 });
  expect(JSON.parse(done.stdout)).toMatchObject([{ host: hostname() }]);
});

const withoutCertificate = () =>
  Object.fromEntries(Object.entries(variables()).filter(([name]) => !name.includes('CLIENT')));

test.each<[string, () => Record<string, string>, RegExp]>([
  [
    'another API key',
    () => variables({ TEMPORAL_API_KEY: 'wrong' }),
    /^HostError: No Temporal server answers at local/,
  ],
  ['no client certificate', withoutCertificate, /^HostError: No Temporal server answers at localhost:\d+ \(/],
  [
    'a certificate that is not there',
    () => variables({ TEMPORAL_TLS_CLIENT_CERT_PATH: '/nowhere.pem' }),
    /^ConfigError: The settings of the connection to Temporal can't be used \(ENOENT.*\/nowhere\.pem/,
  ],
  [
    "another authority's word for the server",
    () => variables({ TEMPORAL_TLS_SERVER_CA_CERT_PATH: join(checkout, 'package.json') }),
    /^HostError: No Temporal server answers at localhost:\d+ \(/,
  ],
])('with %s a command says in one sentence why it can do nothing', async (_, environment, message) => {
  const done = await runProgram(process.execPath, [temper, 'hosts'], { env: environment() });
  expect(done.exitCode).toBe(1);
  expect(done.stderr).toMatch(message);
  expect(done.stderr).not.toContain(API_KEY);
});

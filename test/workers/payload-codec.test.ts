import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import type { Payload } from '@temporalio/common';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout, temporalCli } from '../../host/checkout.ts';
import { identify, stopTree, type ProcessIdentity } from '../../host/process-table.ts';
import { runProgram, startDetached } from '../../host/subprocess.ts';
import { EncryptionCodec, readKeys } from '../../workers/payload-codec.ts';
import { eventually, newFolder } from '../fixtures/trainers/stand-in.ts';
import { startServer } from '../support/temporal.ts';

jest.setTimeout(90_000);

const key = (fill: number) => Buffer.alloc(32, fill).toString('base64');
const codecOf = (text: string) => new EncryptionCodec(readKeys(text) as Map<string, Buffer>);
const plain: Payload = {
  metadata: { encoding: Buffer.from('json/plain') },
  data: Buffer.from('{"config":"a secret of the firm"}'),
};

test('what is encoded is decoded again, and looks different each time', async () => {
  const codec = codecOf(`one:${key(1)}`);
  const [first, second] = await codec.encode([plain, plain]);
  expect(Buffer.from(first?.data ?? []).toString('latin1')).not.toContain('secret');
  expect(first?.data).not.toEqual(second?.data);
  const [decoded] = await codec.decode([first as Payload]);
  expect(Buffer.from(decoded?.data ?? [])).toEqual(plain.data);
  expect(Buffer.from(decoded?.metadata?.encoding ?? []).toString()).toBe('json/plain');
});

test('after a new key was put first, what the old one encrypted is read still', async () => {
  const [old] = await codecOf(`old:${key(1)}`).encode([plain]);
  const [decoded] = await codecOf(`new:${key(2)},old:${key(1)}`).decode([old as Payload]);
  expect(Buffer.from(decoded?.data ?? [])).toEqual(plain.data);
  await expect(codecOf(`new:${key(2)}`).decode([old as Payload])).rejects.toThrow(/the key old, which is not in/);
});

test('what is not encrypted passes, and what was changed is refused', async () => {
  const codec = codecOf(`one:${key(1)}`);
  expect(await codec.decode([plain])).toEqual([plain]);
  const [encoded] = await codec.encode([plain]);
  const changed = Buffer.from(encoded?.data ?? []);
  changed.writeUInt8(changed.readUInt8(40) ^ 1, 40);
  await expect(codec.decode([{ ...encoded, data: changed }])).rejects.toThrow(/authenticate/);
});

test.each(['nonsense', 'one:dG9vIHNob3J0', `${key(1)}`, `one:${key(1)},`])('keys %p are refused', (text) => {
  expect(() => readKeys(text)).toThrow(/^TEMPER_PAYLOAD_KEYS takes ID:KEY/);
});

let env: TestWorkflowEnvironment;
let home: string;
const started: ProcessIdentity[] = [];

beforeAll(async () => {
  env = await startServer();
  home = newFolder();
});
afterAll(async () => {
  for (const each of started) await stopTree(each, 20_000);
  await env.teardown();
});

const temper = join(checkout, 'cli/temper.mjs');
const variables = () => ({
  ...{ TEMPER_HOME: home, TEMPORAL_ADDRESS: env.address, TEMPER_PAYLOAD_KEYS: `one:${key(7)}` },
});

/** Start a `temper` command that goes on, and wait for what it says; returns its log. */
async function start(args: string[], says: string): Promise<string> {
  const log = join(home, `${args[0]}.log`);
  started.push(identify(startDetached(process.execPath, [temper, ...args], log, variables())) as ProcessIdentity);
  await eventually(() => readFileSync(log, 'utf8').includes(says), 40_000);
  return readFileSync(log, 'utf8');
}

test('a history holds nothing readable, but for whoever has the key', async () => {
  await start(['worker'], 'worker: ready');
  const hosts = await runProgram(process.execPath, [temper, 'hosts', '--json'], { env: variables() });
  expect(JSON.parse(hosts.stdout)).toMatchObject([{ home }]);
  const { workflowId } = await firstWorkflow();
  const show = async (...more: string[]) => {
    const args = ['workflow', 'show', '--workflow-id', workflowId, '--address', env.address, '-o', 'json', ...more];
    return decoded((await runProgram(temporalCli, args)).stdout);
  };
  expect(await show()).not.toContain(home);
  const endpoint = /http:\S+/.exec(await start(['codec', '--port', '0'], 'codec: '))?.[0] ?? '';
  expect(await show('--codec-endpoint', endpoint)).toContain(home);
});

async function firstWorkflow(): Promise<{ workflowId: string }> {
  return eventually(async () => {
    for await (const found of env.client.workflow.list()) return found;
    return undefined;
  });
}

/** A history with its payloads, in base64, as text. */
function decoded(history: string): string {
  return history.replaceAll(/"data": ?"([^"]+)"/g, (_match, base64: string) =>
    Buffer.from(base64, 'base64').toString(),
  );
}

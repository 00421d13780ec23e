import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { runProgram } from '../../host/subprocess.ts';
import { Receiver } from '../support/receiver.ts';

jest.setTimeout(120_000);
const key = 'key-of-the-hook-aa51';
let receiver: Receiver;

beforeEach(async () => {
  receiver = await new Receiver().start();
});
afterEach(async () => receiver.stop());

const temper = (env: Record<string, string>, ...args: string[]) =>
  runProgram(process.execPath, [join(checkout, 'cli/temper.mjs'), ...args], { env });

test('`temper notify demo` sends a trial and shows what the service answered', async () => {
  receiver.answers = [{ body: '{"code":0,"msg":"success"}' }];
  const env = { TEMPER_NOTIFY_URL: receiver.url(`/hook/${key}`), TEMPER_NOTIFY_FORMAT: 'feishu' };
  const { exitCode, stdout } = await temper(env, 'notify', 'demo', '--event', 'awaitingApproval');
  expect([exitCode, stdout]).toEqual([0, 'feishu by TEMPER_NOTIFY_URL: taken, HTTP 200: {"code":0,"msg":"success"}']);
  expect(receiver.received[0]?.body).toContain('Run a-trial waits for approval');
});

test('a service that does not take it makes the exit code 1, and its address is not shown', async () => {
  receiver.answers = [{ status: 404, body: `no hook ${key}` }];
  const { exitCode, stdout } = await temper({ TEMPER_NOTIFY_URL: receiver.url(`/hook/${key}`) }, 'notify', 'demo');
  expect(exitCode).toBe(1);
  expect(stdout).toMatch(
    /FAILED: The json webhook of TEMPER_NOTIFY_URL \(127\.0\.0\.1:\d+\) refuses it: HTTP 404 no hook …/,
  );
  expect(stdout).not.toContain(key);
  const asJson = await temper({ TEMPER_NOTIFY_URL: receiver.url(`/hook/${key}`) }, 'notify', 'demo', '--json');
  expect(JSON.parse(asJson.stdout)).toMatchObject([{ format: 'json', taken: false, status: null, wanted: true }]);
});

test.each<[string, Record<string, string>, string[], RegExp]>([
  ['nobody to tell', { TEMPER_NOTIFY_URL: '' }, [], /demo has no notify, and TEMPER_NOTIFY_URL is not set/],
  ['an unknown event', { TEMPER_NOTIFY_URL: 'http://127.0.0.1:9' }, ['--event', 'done'], /There is no event done/],
])('%s is said in a sentence', async (_, env, args, words) => {
  const { exitCode, stderr } = await temper(env, 'notify', 'demo', ...args);
  expect(exitCode).toBe(1);
  expect(stderr).toMatch(words);
});

test('`temper doctor` finds a receiver whose address is none, before a run does', async () => {
  const { exitCode, stdout } = await temper({ TEMPER_NOTIFY_URL: 'hooks.example.com' }, 'doctor', 'demo');
  expect(exitCode).toBe(1);
  expect(stdout).toMatch(/ERROR {4}notifications by json: .*what TEMPER_NOTIFY_URL holds is no http or https address/);
});

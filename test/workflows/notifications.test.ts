import { afterAll, afterEach, beforeAll, beforeEach, expect, jest, test } from '@jest/globals';
import { ApplicationFailure, Context } from '@temporalio/activity';
import type { WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Activities } from '../../activities/index.ts';
import type { LoadConfigResult } from '../../activities/load-config.ts';
import { notify, type NotificationAttempt } from '../../activities/notify.ts';
import { stage } from '../../activities/stage.ts';
import { notifyEntry, runEvents, type NotifyEntry } from '../../configs/notify-schema.ts';
import type { ResolvedConfig } from '../../configs/schema.ts';
import { readLines } from '../../host/json-lines.ts';
import type { JsonNotification } from '../../host/notifications/json-format.ts';
import { runDirectory } from '../../host/run-directory.ts';
import type { HostSettings } from '../../host/settings.ts';
import type { fineTune, FineTuneInput } from '../../workflows/fine-tune.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { evaluation, quickActivities } from '../support/activities.ts';
import { Receiver } from '../support/receiver.ts';
import { startServer, withWorkers } from '../support/temporal.ts';
import { settingsOf } from '../support/settings.ts';

// Runs on a real server whose receivers are told by the real activity.
jest.setTimeout(90_000);
const key = 'key-of-the-hook-4c7d';
const secret = `whsec_${Buffer.from('another secret of 32 bytes ......').toString('base64')}`;
const entry = notifyEntry.parse({ format: 'json', urlEnv: 'TEMPER_TEST_HOOK', secretEnv: 'TEMPER_TEST_HOOK_SECRET' });
let env: TestWorkflowEnvironment;
let receiver: Receiver;
let settings: HostSettings;
let runs = 0;

beforeAll(async () => {
  env = await startServer();
});
afterAll(async () => env.teardown());
beforeEach(async () => {
  receiver = await new Receiver().start();
  process.env.TEMPER_TEST_HOOK = receiver.url(`/hook/${key}`);
  process.env.TEMPER_TEST_HOOK_SECRET = secret;
  settings = settingsOf(newFolder());
});
afterEach(async () => receiver.stop());

const quick = quickActivities([]);
const fails: Partial<Activities> = {
  trainModel: async () => {
    throw ApplicationFailure.create({ type: 'HostError', message: 'the disk is gone\nits log: /x' });
  },
};
const rollsBack: Activities['deployModel'] = async (input) => ({
  ...(await quick.deployModel(input)),
  ...{ outcome: 'rolledBack', why: 'it died', pageUrl: null },
});

test.each<[string, Partial<Activities>, FineTuneInput, object]>([
  ['deployed', {}, { config: 'demo' }, { why: null, pageUrl: 'http://127.0.0.1:7860' }],
  [
    'rejected',
    { evaluateModel: async () => evaluation(false) },
    { config: 'demo' },
    { why: expect.stringMatching(/^failed maxRegression/) },
  ],
  ['finished', { loadConfig: async () => withDeploy({ enabled: false }) }, { config: 'demo' }, { deployment: null }],
  ['rolledBack', { deployModel: rollsBack }, { config: 'demo' }, { why: 'it died', pageUrl: null }],
  ['failed', fails, { config: 'demo' }, { why: expect.stringContaining('the disk is gone'), apiUrl: null }],
  [
    'unchanged',
    { detectChange: async () => ({ changed: false, since: null, headline: 'the rows of first' }) },
    { config: 'demo', onlyIfChanged: true },
    { why: 'the rows of first', evaluation: null },
  ],
])('a run that ends %s is told of once, with why', async (event, changes, input, data) => {
  await withWorkers(env, telling(changes), async () => {
    const handle = await start(input);
    await handle.result().catch(() => {});
    await until(() => receiver.received.length > 0);
    await handlesOfNotices(handle, event)[0]?.result();
  });
  expect(receiver.bodies()).toEqual([
    expect.objectContaining({
      ...{ version: 1, type: `run.${event}` },
      data: expect.objectContaining({ run: `notified-${runs}`, config: 'demo', host: 'here', ...data }),
    }),
  ]);
});

test('a cancelled run is told of though it is cancelled', async () => {
  let training = false;
  const trainModel: Activities['trainModel'] = async () => {
    training = true;
    const context = Context.current();
    const timer = setInterval(() => context.heartbeat(), 200);
    return context.cancelled.finally(() => clearInterval(timer));
  };
  await withWorkers(env, telling({ trainModel }), async () => {
    const handle = await start();
    await until(() => training);
    await handle.cancel();
    await handle.result().catch(() => {});
    await until(() => receiver.received.length > 0);
  });
  expect(receiver.bodies()).toMatchObject([{ type: 'run.cancelled', data: { why: null } }]);
});

test('approval is taken before anybody could be told that it is waited for, and the notice says how to give it', async () => {
  receiver.answers = ['hang'];
  await withWorkers(env, telling(await manually()), async () => {
    const handle = await start();
    await until(() => receiver.received.length > 0);
    const word = { by: 'Mei', why: 'looked at 20 answers' };
    expect(await handle.executeUpdate('approve', { args: [word] })).toBe('approved by Mei');
    expect(await handle.result()).toMatchObject({ outcome: 'deployed' });
    const [body] = receiver.bodies<JsonNotification>();
    expect(body).toMatchObject({ type: 'run.awaitingApproval', data: { approval: { hours: 1 } } });
    expect(body?.data.approval?.approve).toContain(`--workflow-id ${handle.workflowId} --name approve`);
    await stopNotices(handle, 'awaitingApproval', 'deployed');
  });
});

test('a receiver that refuses changes nothing about the run, is asked once, and is written down', async () => {
  receiver.answers = [{ status: 404, body: `no hook ${key}` }];
  await withWorkers(env, telling(), async () => {
    const handle = await start();
    expect(await handle.result()).toMatchObject({ outcome: 'deployed' });
    const [notice] = handlesOfNotices(handle, 'deployed');
    await expect(notice?.result()).rejects.toThrow();
    expect((await notice?.describe())?.status.name).toBe('FAILED');
    expect(await attempts(handle)).toMatchObject([
      { type: 'failed', event: 'deployed', urlEnv: 'TEMPER_TEST_HOOK', why: expect.stringContaining('HTTP 404') },
    ]);
  });
  expect(receiver.received).toHaveLength(1);
});

test('a receiver that was down gets the notice when it is up, under the same id, and the run had ended long before', async () => {
  receiver.answers = [{ status: 500 }, { status: 429, headers: { 'retry-after': '1' } }, {}];
  const { port } = receiver;
  await receiver.stop();
  await withWorkers(env, telling(), async () => {
    const handle = await start();
    expect(await handle.result()).toMatchObject({ outcome: 'deployed' });
    await until(async () => (await attempts(handle)).length > 0);
    expect(receiver.received).toEqual([]);
    await receiver.start(port);
    await handlesOfNotices(handle, 'deployed')[0]?.result();
    const kinds = (await attempts(handle)).map(({ type }) => type);
    expect(kinds.at(-1)).toBe('sent');
    expect(kinds.filter((type) => type === 'sent')).toHaveLength(1);
  });
  expect(receiver.received.length).toBeGreaterThanOrEqual(3);
  expect(new Set(receiver.bodies<JsonNotification>().map(({ id }) => id)).size).toBe(1);
});

test('a worker that ends while it tells is followed by one that tells again', async () => {
  receiver.answers = ['drop'];
  let handle = undefined as WorkflowHandle<typeof fineTune> | undefined;
  await withWorkers(env, telling(), async () => {
    handle = await start();
    await handle.result();
    await until(() => receiver.received.length > 0);
  });
  receiver.answers = [{}];
  await withWorkers(env, telling(), async () => {
    await handlesOfNotices(handle, 'deployed')[0]?.result();
  });
  expect((await attempts(handle)).at(-1)).toMatchObject({ type: 'sent' });
});

test('each receiver is told what it wants to know, and one that is away keeps no other waiting', async () => {
  const away: NotifyEntry = { ...entry, urlEnv: 'TEMPER_TEST_AWAY' };
  const notInterested: NotifyEntry = { ...entry, on: ['failed'] };
  process.env.TEMPER_TEST_AWAY = 'http://127.0.0.1:9/hook';
  await withWorkers(env, telling({}, [away, notInterested, entry]), async () => {
    const handle = await start();
    await handle.result();
    await until(() => receiver.received.length > 0);
    await stopNotices(handle, 'deployed');
  });
  expect(receiver.received).toHaveLength(1);
});

test("a config that can't be read is told to whom the host names, and to nobody where it names none", async () => {
  const loadConfig: Activities['loadConfig'] = async () => {
    throw ApplicationFailure.create({ type: 'ConfigError', message: 'lora_rnak is no option' });
  };
  const run = () =>
    withWorkers(env, telling({ loadConfig }), async () => {
      const handle = await start();
      await handle.result().catch(() => {});
      return (await handlesOfNotices(handle, 'failed')[0]?.result()) as string[];
    });
  expect(await run()).toEqual(['nobody is to be told: TEMPER_NOTIFY_URL is not set']);
  settings = { ...settings, notify: entry };
  await run();
  expect(receiver.bodies()).toMatchObject([
    { type: 'run.failed', data: { why: 'lora_rnak is no option', config: null, report: null } },
  ]);
});

test('neither addresses nor secrets are in a history, a run directory or an error', async () => {
  receiver.answers = [{ status: 400, body: `you sent ${key} and ${secret}` }];
  await withWorkers(env, telling(), async () => {
    const handle = await start();
    mkdirSync(runDirectory(settings.home, handle.workflowId).path, { recursive: true });
    await handle.result();
    const [notice] = handlesOfNotices(handle, 'deployed');
    await notice?.result().catch(() => {});
    const histories = JSON.stringify([await handle.fetchHistory(), await notice?.fetchHistory()]);
    const read = histories.replaceAll(/"data":"([^"]+)"/g, (_match, base64: string) =>
      Buffer.from(base64, 'base64').toString(),
    );
    const files = readdirSync(settings.home, { recursive: true, withFileTypes: true })
      .filter((file) => file.isFile())
      .map((file) => readFileSync(join(file.parentPath, file.name), 'utf8'));
    expect(files.length).toBeGreaterThan(0);
    for (const text of [read, ...files]) {
      expect(text).toContain('TEMPER_TEST_HOOK');
      expect(text).not.toContain(key);
      expect(text).not.toContain(secret);
    }
  });
});

/** The activities of a good run, whose config names the receivers, with the real one that tells them. */
function telling(changes: Partial<Activities> = {}, entries = [{ ...entry, on: [...runEvents] }]): Activities {
  const { loadConfig = quick.loadConfig } = changes;
  return quickActivities([], {
    ...changes,
    loadConfig: async (input) => ({ ...(await loadConfig(input)), notify: entries }),
    notify: stage('notify', settings, notify, { announced: false, ofRun: false }),
  });
}

async function manually(): Promise<Partial<Activities>> {
  const loaded = await withDeploy({ approval: 'manual', approvalHours: 1 });
  return { loadConfig: async () => loaded };
}

async function withDeploy(changes: Partial<ResolvedConfig['deploy']>): Promise<LoadConfigResult> {
  const loaded = await quick.loadConfig(undefined as never);
  return { ...loaded, config: { ...loaded.config, deploy: { ...loaded.config.deploy, ...changes } } };
}

async function start(input: FineTuneInput = { config: 'demo' }): Promise<WorkflowHandle<typeof fineTune>> {
  const workflowId = `notified-${++runs}`;
  mkdirSync(runDirectory(settings.home, workflowId).path, { recursive: true });
  return env.client.workflow.start<typeof fineTune>('fineTune', { taskQueue: TASK_QUEUE, workflowId, args: [input] });
}

/** The workflows that tell of a run's events. */
function handlesOfNotices(run: WorkflowHandle | undefined, ...events: string[]): WorkflowHandle[] {
  const { firstExecutionRunId } = run as unknown as { firstExecutionRunId: string };
  return events.map((event) => env.client.workflow.getHandle(`notify-${firstExecutionRunId}-${event}`));
}

async function stopNotices(run: WorkflowHandle, ...events: string[]): Promise<void> {
  await Promise.all(handlesOfNotices(run, ...events).map(async (notice) => notice.terminate().catch(() => {})));
}

async function attempts(run: WorkflowHandle | undefined): Promise<NotificationAttempt[]> {
  return readLines(runDirectory(settings.home, run?.workflowId ?? '').notifications);
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await condition()); tries++) {
    if (tries > 800) throw new Error('waited 40 s in vain');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import type { WorkflowFailedError } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import type { HostDescription } from '../../activities/hosts.ts';
import { createActivities, type Activities } from '../../activities/index.ts';
import { checkout } from '../../host/checkout.ts';
import { identify } from '../../host/process-table.ts';
import { runDirectory } from '../../host/run-directory.ts';
import type { FineTuneInput, FineTuneResult } from '../../workflows/fine-tune.ts';
import { bestOf, byRun } from '../../workflows/placement.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { quickActivities } from '../support/activities.ts';
import { startServer, withWorkers } from '../support/temporal.ts';

// Two workers as two hosts, each with a home of its own, on a real server; what they say of themselves is real, stages are quick.
jest.setTimeout(90_000);

let env: TestWorkflowEnvironment;
let homes: { a: string; b: string };

beforeEach(async () => {
  env = await startServer();
  homes = { a: newFolder(), b: newFolder() };
});
afterEach(async () => env.teardown());

type Host = 'a' | 'b';

function activitiesOf(host: Host, changes: Partial<Activities> = {}): Activities {
  const { listHosts, describeHost, loadConfig, recordRun } = createActivities({
    ...{ home: homes[host], hostName: host, gpuSlots: 1, modelsRoot: homes[host], dataRoots: [checkout] },
    configsFolder: join(checkout, 'configs'),
  });
  return quickActivities([], { listHosts, describeHost, loadConfig, recordRun, ...changes });
}

async function on<T>(hosts: Host[], work: () => Promise<T>, changes: Partial<Activities> = {}): Promise<T> {
  const [host, ...others] = hosts;
  if (host === undefined) return work();
  return withWorkers(env, activitiesOf(host, changes), () => on(others, work, changes), host);
}

async function start(workflowId: string, input: Partial<FineTuneInput> = {}) {
  const args = [{ config: 'demo', ...input }];
  return env.client.workflow.start('fineTune', { taskQueue: TASK_QUEUE, workflowId, args });
}

async function run(workflowId: string, input: Partial<FineTuneInput> = {}): Promise<FineTuneResult> {
  return (await start(workflowId, input)).result() as Promise<FineTuneResult>;
}

/** The hosts whose home has the run. */
const holdersOf = (runName: string) =>
  (['a', 'b'] as const).filter((host) => existsSync(runDirectory(homes[host], runName).run));

/** The only GPU slot of a host is taken by a stage of another run. */
function occupy(host: Host): void {
  const claim = {
    runName: 'other',
    stage: 'trainModel',
    priority: 2,
    owner: 'x',
    since: '',
    worker: identify(process.pid),
  };
  writeFileSync(join(homes[host], 'gpu-slots.json'), JSON.stringify({ held: [claim], waiting: [] }));
}

function demoWith(changes: Record<string, object>): Record<string, unknown> {
  const demo = parse(readFileSync(join(checkout, 'configs/demo.yaml'), 'utf8')) as Record<string, object>;
  const parts = Object.entries(changes).map(([part, values]) => [part, { ...demo[part], ...values }]);
  return { ...demo, ...(Object.fromEntries(parts) as Record<string, unknown>) };
}

async function failureOf(result: Promise<unknown>): Promise<{ type: string; message: string }> {
  const failed = (await result.catch((error: unknown) => error)) as WorkflowFailedError;
  const { type, message } = failed.cause as unknown as { type: string; message: string };
  return { type, message };
}

test('a run goes to the host with a free GPU slot, or to the one that its input names', async () => {
  occupy('a');
  await on(['a', 'b'], async () => {
    await run('free');
    await run('named', { host: 'a' });
  });
  expect([holdersOf('free'), holdersOf('named')]).toEqual([['b'], ['a']]);
});

test('a run that is started again goes back to where its directory is, busy as that host may be', async () => {
  await on(['b'], () => run('sticky'));
  occupy('b');
  await on(['a', 'b'], () => run('sticky'));
  expect(holdersOf('sticky')).toEqual(['b']);
});

test('a run that no host can do fails with the reason of each', async () => {
  const config = demoWith({ train: { use_cpu: false } });
  const failure = await on(['a', 'b'], async () => failureOf(run('needy', { config })));
  expect(failure).toEqual({
    type: 'HostError',
    message: 'No host can do this run:\n  a: it has no GPU\n  b: it has no GPU',
  });
});

test('hosts that do not answer in time are asked again, and the run is placed then', async () => {
  let lists = 0;
  const listHosts = async () => ({ hosts: ++lists === 1 ? ['busy-1', 'busy-2'] : ['a', 'b'], headline: '' });
  const result = await on(['a', 'b'], () => run('patient'), { listHosts });
  expect([result.outcome, lists]).toEqual(['deployed', 2]);
});

test('when its host stays away the run fails and says what waits there', async () => {
  const config = demoWith({ limits: { hostHours: 0.001 } });
  const begun = await on(
    ['a'],
    async () => {
      const handle = await start('lost', { config, host: 'a' });
      await untilDone(handle, 'validateDataset');
      return handle;
    },
    { planTraining: never },
  );
  const failure = await on(['b'], () => failureOf(begun.result()));
  expect(failure.type).toBe('HostError');
  expect(failure.message).toMatch(
    /^Host a has not answered for 0\.001 h, and no other host sees the run's directory\./,
  );
  expect(failure.message).toMatch(/begins anew and this is lost:\n {2}loadConfig: inline.*validateDataset: 8 rows/s);
});

test('when its host stays away the run goes on on another that shares its storage', async () => {
  homes.b = homes.a;
  const config = demoWith({ limits: { hostHours: 0.001 } });
  const begun = await on(
    ['a'],
    async () => {
      const handle = await start('moved', { config, host: 'a' });
      await untilDone(handle, 'validateDataset');
      return handle;
    },
    { planTraining: never },
  );
  const result = await on(['b'], () => begun.result() as Promise<FineTuneResult>);
  expect(result.outcome).toBe('deployed');
});

test('a rollback is done on the host that serves the deployment', async () => {
  const done: string[] = [];
  const changes = (host: Host, deployments: string[]): Partial<Activities> => ({
    describeHost: async () => ({ ...idle(host), deployments }),
    planRollback: async (input) => {
      done.push(host);
      return quickActivities([]).planRollback(input);
    },
  });
  await withWorkers(
    env,
    activitiesOf('a', changes('a', ['other'])),
    () =>
      withWorkers(
        env,
        activitiesOf('b', changes('b', ['cards'])),
        () =>
          env.client.workflow.execute('rollback', {
            ...{ taskQueue: TASK_QUEUE, workflowId: 'back', args: [{ deployment: 'cards' }] },
          }),
        'b',
      ),
    'a',
  );
  expect(done).toEqual(['b']);
});

test('sure hosts go before unsure ones, then those with more free slots', () => {
  const choose = (...changes: Partial<HostDescription>[]) =>
    bestOf(changes.map((change, index) => ({ ...idle(String.fromCharCode(97 + index)), ...change }))).host;
  expect(choose({}, {})).toBe('a');
  expect(choose({ training: ['x'] }, {})).toBe('b');
  expect(choose({ slots: 1 }, { slots: 4, training: ['x', 'y'] })).toBe('b');
  expect(choose({ fit: 'unsure' }, { training: ['x'], waiting: 3 })).toBe('b');
  expect(choose({ fit: 'no' }, { fit: 'unsure' })).toBe('b');
  expect(choose({}, { holdsRun: true, fit: 'no' })).toBe('b');
});

test('of very many hosts each run asks some of its own, the same each time', () => {
  const hosts = Array.from({ length: 100 }, (_, index) => `gpu-${index}`);
  const asked = (runName: string, there = hosts) => byRun(there, runName).slice(0, 16);
  expect(asked('one')).toEqual(asked('one', [...hosts].reverse()));
  expect(asked('one')).not.toEqual(asked('two'));
  const counts = new Map<string, number>();
  for (let run = 0; run < 1000; run++)
    for (const host of asked(`run-${run}`)) counts.set(host, (counts.get(host) ?? 0) + 1);
  expect(counts.size).toBe(100);
  expect(Math.max(...counts.values())).toBeLessThan(260);
});

function idle(host: string): HostDescription {
  return {
    ...{ host, home: '', gpus: [], slots: 1, training: [], waiting: 0, deployments: [] },
    ...{ holdsRun: false, fit: 'yes', why: '', headline: '' },
  };
}

/** An activity that ends with its worker. */
async function never(): Promise<never> {
  throw new Error('the host is going down');
}

async function untilDone(handle: { query: (name: string) => Promise<unknown> }, wanted: string): Promise<void> {
  for (;;) {
    const { stages } = (await handle.query('progress')) as { stages: { stage: string; state: string }[] };
    if (stages.some(({ stage, state }) => stage === wanted && state === 'done')) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

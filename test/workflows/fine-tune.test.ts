import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { ApplicationFailure, Context, CancelledFailure } from '@temporalio/activity';
import { WorkflowUpdateFailedError, type WorkflowFailedError, type WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import type { fineTune, FineTuneInput } from '../../workflows/fine-tune.ts';
import type { RunProgress } from '../../workflows/progress.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import { stage, type StageContext, type StageResult } from '../../activities/stage.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { quickActivities, type Calls } from '../support/activities.ts';
import { startServer, withWorkers } from '../support/temporal.ts';
import { settingsOf } from '../support/settings.ts';

jest.setTimeout(60_000);
let env: TestWorkflowEnvironment;
let runs = 0;

beforeAll(async () => {
  env = await startServer();
});
afterAll(async () => env.teardown());

test('the stages run in order and the result names what is in service', async () => {
  const calls: Calls = [];
  const handle = await withWorkers(env, quickActivities(calls), async () => {
    const handle = await start({ config: 'demo' });
    expect(await handle.result()).toEqual({
      outcome: 'deployed',
      runName: handle.workflowId,
      runDirectory: '/runs/x',
      apiUrl: 'http://127.0.0.1:8000',
      pageUrl: 'http://127.0.0.1:7860',
      why: null,
      evaluation: {
        base: expect.objectContaining({ exactMatch: 0.1 }),
        candidate: expect.objectContaining({ exactMatch: 0.9 }),
        champion: null,
      },
      merge: {
        tensors: 2,
        merged: 1,
        bytes: 4,
        rounding: { overflow: 0, underflow: 0, subnormal: 1, nonFinite: 0, changed: 2 },
      },
    });
    const progress = await handle.query<RunProgress>('progress');
    expect(progress.stages.map(({ stage, state, headline }) => [stage, state, headline])).toEqual([
      ['loadConfig', 'done', 'demo'],
      ['checkEnvironment', 'done', 'CPU'],
      ['validateDataset', 'done', '8 rows to train on'],
      ['planTraining', 'done', '16 × 1 rows on the CPU'],
      ['trainModel', 'done', '5 of 5 steps'],
      ['mergeAdapter', 'done', 'merged'],
      ['patchFp16', 'done', 'fp16'],
      ['evaluateModel', 'done', '10 % → 90 %'],
      ['deployModel', 'done', 'up'],
    ]);
    return handle;
  });
  expect(calls).toEqual([
    'listHosts',
    'loadConfig',
    'checkEnvironment',
    'validateDataset',
    'planTraining',
    'trainModel',
    'mergeAdapter',
    'patchFp16',
    'evaluateModel',
    'deployModel',
    'recordRun',
  ]);
  const summaries = await summariesOf(handle);
  expect(summaries).toContain('Train tiny with LLaMA-Factory');
  expect(summaries).toHaveLength(calls.length);
});

test('a GPU with bfloat16 needs no fp16 patch', async () => {
  const calls: Calls = [];
  const changes = { checkEnvironment: async () => ({ ...good, precision: 'bf16' as const }) };
  await withWorkers(env, quickActivities(calls, changes), async () => {
    const handle = await start({ config: 'demo' });
    await handle.result();
    const { stages } = await handle.query<RunProgress>('progress');
    expect(stages.find(({ stage }) => stage === 'patchFp16')).toMatchObject({
      state: 'skipped',
      headline: 'serves in bf16',
    });
  });
  expect(calls).not.toContain('patchFp16');
});

test.each(['ConfigError', 'DatasetError', 'HostError'])(
  'a %s fails the run at once, by its name and message',
  async (type) => {
    const calls: Calls = [];
    const changes = {
      validateDataset: async () => {
        throw ApplicationFailure.create({ type, message: 'row 7 is bad' });
      },
    };
    await withWorkers(env, quickActivities(calls, changes), async () => {
      const handle = await start({ config: 'demo' });
      expect(await failureOf(handle)).toMatchObject({ type, message: 'row 7 is bad' });
      const { stages } = await handle.query<RunProgress>('progress');
      expect(stages.find(({ stage }) => stage === 'validateDataset')).toMatchObject({
        state: 'failed',
        headline: 'row 7 is bad',
      });
    });
    expect(calls).toEqual(['listHosts', 'loadConfig', 'checkEnvironment', 'validateDataset', 'recordRun']);
  },
);

test('a TrainerError is tried again', async () => {
  let attempts = 0;
  const trained = await quickActivities([]).trainModel(undefined as never);
  const changes = {
    trainModel: async () => {
      if (++attempts === 1) throw ApplicationFailure.create({ type: 'TrainerError', message: 'died' });
      return { ...trained, attempt: Context.current().info.attempt };
    },
  };
  await withWorkers(env, quickActivities([], changes), async () => {
    const handle = await start({ config: 'demo' });
    await handle.result();
    const { stages } = await handle.query<RunProgress>('progress');
    expect(stages.find(({ stage }) => stage === 'trainModel')).toMatchObject({ state: 'done', attempt: 2 });
  });
});

test.each<[string, unknown]>([
  ['no input', undefined],
  ['no config', {}],
  ['an empty config', { config: '' }],
  ['a number', { config: 7 }],
  ['an unknown key', { config: 'demo', cnofig: 'demo' }],
])('%s is refused with how to start a run', async (_, input) => {
  const calls: Calls = [];
  await withWorkers(env, quickActivities(calls), async () => {
    const failure = await failureOf(await start(input as FineTuneInput));
    expect(failure).toMatchObject({ type: 'ConfigError', nonRetryable: true });
    expect(failure.message).toContain('{"config": "<name or path of a YAML, or the config itself>"}');
  });
  expect(calls).toEqual([]);
});

test('a cancel reaches the training, and the run ends as cancelled with its record written', async () => {
  const calls: Calls = [];
  await withWorkers(env, quickActivities(calls, { trainModel: untilCancelled }), async () => {
    const handle = await start({ config: 'demo' });
    await until(async () => calls.includes('trainModel'));
    await handle.cancel();
    const error = await handle.result().catch((reason: unknown) => reason);
    expect((error as WorkflowFailedError).cause).toBeInstanceOf(CancelledFailure);
    expect((await handle.describe()).status.name).toBe('CANCELLED');
  });
  expect(calls.at(-1)).toBe('recordRun');
});

test('stopTraining is refused before the training and asks for the stop during it', async () => {
  const calls: Calls = [];
  let finish = () => {};
  const stopped = new Promise<void>((resolve) => (finish = resolve));
  const checking = new Promise<void>((resolve) => setTimeout(resolve, 3000));
  const trained = await quickActivities([]).trainModel(undefined as never);
  const changes = {
    checkEnvironment: async () => (await checking, good),
    trainModel: async () => (await stopped, { ...trained, stopped: true }),
  };
  await withWorkers(env, quickActivities(calls, changes), async () => {
    const handle = await start({ config: 'demo' });
    const early = await handle
      .executeUpdate('stopTraining', { args: [{ reason: 'too early' }] })
      .catch((reason: unknown) => reason);
    expect(early).toBeInstanceOf(WorkflowUpdateFailedError);
    await until(async () => calls.includes('trainModel'));
    expect(await handle.executeUpdate('stopTraining', { args: [{ reason: 'good enough' }] })).toBe('stopping');
    finish();
    await handle.result();
  });
  expect(calls).toContain('requestStop');
  expect(calls).toContain('mergeAdapter');
});

test('two runs on one GPU slot train one after the other, and one that has trained does not wait for the next', async () => {
  const order: string[] = [];
  const working = new Set<string>();
  const settings = settingsOf(newFolder());
  const quick = quickActivities([]);
  const slow =
    <I, O extends StageResult>(name: string, work: (input: I) => Promise<O>) =>
    async (input: I, { runName }: StageContext) => {
      order.push(name);
      working.add(`${name} ${runName}`);
      expect([...working]).toHaveLength(1);
      await new Promise((resolve) => setTimeout(resolve, 300));
      working.clear();
      return work(input);
    };
  const changes = {
    trainModel: stage('trainModel', settings, slow('train', quick.trainModel), { gpu: { priority: 2 } }),
    evaluateModel: stage('evaluateModel', settings, slow('evaluate', quick.evaluateModel), { gpu: { priority: 1 } }),
  };
  await withWorkers(env, quickActivities([], changes), async () => {
    const handles = [await start({ config: 'demo' }), await start({ config: 'demo' }), await start({ config: 'demo' })];
    await Promise.all(handles.map((handle) => handle.result()));
  });
  expect(order).toHaveLength(6);
  expect(order.lastIndexOf('train')).toBeLessThanOrEqual(4);
  expect(order.filter((name) => name === 'evaluate')).toHaveLength(3);
});

const good = { precision: 'fp16' as const, training: {}, gpus: [], warnings: [], versions: {}, headline: 'CPU' };

async function untilCancelled(): Promise<never> {
  const context = Context.current();
  const timer = setInterval(() => context.heartbeat(), 200);
  try {
    return await context.cancelled;
  } finally {
    clearInterval(timer);
  }
}

async function start(input: FineTuneInput): Promise<WorkflowHandle<typeof fineTune>> {
  return env.client.workflow.start<typeof fineTune>('fineTune', {
    taskQueue: TASK_QUEUE,
    workflowId: `run-${++runs}`,
    args: [input],
  });
}

async function failureOf(handle: WorkflowHandle<typeof fineTune>): Promise<ApplicationFailure> {
  const error = await handle.result().catch((reason: unknown) => reason);
  let cause: unknown = error;
  while (cause instanceof Error && !(cause instanceof ApplicationFailure)) cause = cause.cause;
  return cause as ApplicationFailure;
}

async function summariesOf(handle: WorkflowHandle<typeof fineTune>): Promise<string[]> {
  const { events } = await handle.fetchHistory();
  return (events ?? []).flatMap((event) => {
    const data = event.userMetadata?.summary?.data;
    return data ? [JSON.parse(Buffer.from(data).toString()) as string] : [];
  });
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await condition()); tries++) {
    if (tries > 400) throw new Error('waited 20 s in vain');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { Context } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Activities } from '../../../activities/index.ts';
import { RunNews } from '../../../cli/watch/news.ts';
import { exitCodeOf } from '../../../cli/watch/run-end.ts';
import { readSnapshot, type RunSnapshot } from '../../../cli/watch/run-snapshot.ts';
import { loadConfig } from '../../../configs/load.ts';
import { checkout } from '../../../host/checkout.ts';
import { TASK_QUEUE } from '../../../workflows/queues.ts';
import { quickActivities } from '../../support/activities.ts';
import { startServer, withWorkers } from '../../support/temporal.ts';

// What `temper watch` sees of real workflows on a real server.
jest.setTimeout(120_000);

let env: TestWorkflowEnvironment;
beforeAll(async () => {
  env = await startServer();
});
afterAll(() => env.teardown());

async function start(runName: string): Promise<void> {
  await env.client.workflow.start('fineTune', {
    taskQueue: TASK_QUEUE,
    workflowId: runName,
    args: [{ config: 'demo' }],
  });
}

async function until(runName: string, isIt: (snapshot: RunSnapshot) => boolean): Promise<RunSnapshot> {
  for (let snapshot: RunSnapshot | undefined; ; await sleep(100)) {
    snapshot = await readSnapshot(env.client, runName, snapshot);
    if (isIt(snapshot)) return snapshot;
    if (snapshot.closedAt !== null) throw new Error(`${runName} has ended: ${JSON.stringify(snapshot)}`);
  }
}

const noticesOf = ({ notices }: RunSnapshot) => notices.map(({ text }) => text).join('\n');

test('a run that no worker takes says so', async () => {
  await start('untaken');
  const snapshot = await until('untaken', ({ notices }) => notices.length > 0);
  expect(noticesOf(snapshot)).toMatch(/^waits for a worker: start `npx temper up`/);
  expect(snapshot.progress).toBeNull();
  await env.client.workflow.getHandle('untaken').terminate();
  expect(exitCodeOf(await readSnapshot(env.client, 'untaken'))).toBe(1);
});

test('an attempt that failed and the wait for the next are seen, then what the next one says of itself', async () => {
  let release = () => {};
  const released = new Promise<void>((resolve) => (release = resolve));
  const result = quickActivities([]).trainModel;
  const trainModel: Activities['trainModel'] = async (input) => {
    if (Context.current().info.attempt === 1)
      throw ApplicationFailure.create({
        message: 'The trainer died.\nIts log: /x',
        type: 'TrainerError',
        nextRetryDelay: '3s',
      });
    Context.current().heartbeat({
      stage: 'trainModel',
      phase: 'training',
      step: 5,
      maxSteps: 9,
      loss: 0.5,
      losses: [1, 0.5],
    });
    await released;
    return result(input);
  };
  const news = new RunNews(0);
  await withWorkers(env, quickActivities([], { trainModel }), async () => {
    await start('crashes');
    const waiting = await until('crashes', ({ notices }) => notices.some(({ kind }) => kind === 'waits'));
    expect(noticesOf(waiting)).toMatch(/^attempt 2 begins in \d s\nattempt 1 failed: The trainer died\.$/);
    expect(news.tell(waiting).join('\n')).toMatch(/! attempt 1 failed: The trainer died\.$/);
    const training = await until('crashes', ({ activity }) => activity?.heartbeat.step === 5);
    expect(training.activity).toMatchObject({
      name: 'trainModel',
      attempt: 2,
      worker: expect.stringMatching(/@here$/),
    });
    expect(news.tell(training).at(-1)?.trim()).toBe('step 5 of 9, loss 0.500');
    release();
    const ended = await until('crashes', ({ closedAt }) => closedAt !== null);
    expect(ended.result?.outcome).toBe('deployed');
    expect(exitCodeOf(ended)).toBe(0);
  });
});

test('a run that waits for approval says how to give it, and one that is rejected ends with exit code 3', async () => {
  const options = {
    configsFolder: `${checkout}/configs`,
    root: checkout,
    allowedRoots: [checkout],
    modelsRoot: checkout,
  };
  const config = loadConfig('demo', options, { 'deploy.approval': 'manual' });
  const load: Activities['loadConfig'] = async () => ({
    config,
    modelName: 'tiny',
    configDigest: 'c',
    headline: 'demo',
  });
  await withWorkers(env, quickActivities([], { loadConfig: load }), async () => {
    await start('asks');
    const asking = await until('asks', ({ notices }) => notices.length > 0);
    expect(noticesOf(asking)).toContain('temporal workflow update execute --workflow-id asks --name approve');
    await env.client.workflow.getHandle('asks').executeUpdate('reject', { args: [{ by: 'me', why: 'worse' }] });
    const ended = await until('asks', ({ closedAt }) => closedAt !== null);
    expect([ended.result?.why, exitCodeOf(ended)]).toEqual(['worse', 3]);
  });
});

test('a failed run has the reason of the stage that failed; one that is not there is an error that says so', async () => {
  const validateDataset: Activities['validateDataset'] = async () => {
    throw ApplicationFailure.nonRetryable('rows.json: row 3 has no picture.', 'DatasetError');
  };
  await withWorkers(env, quickActivities([], { validateDataset }), async () => {
    await start('fails');
    const ended = await until('fails', ({ closedAt }) => closedAt !== null);
    expect([ended.failure, exitCodeOf(ended)]).toEqual(['rows.json: row 3 has no picture.', 1]);
  });
  await expect(readSnapshot(env.client, 'nothing')).rejects.toThrow(
    /knows no run nothing; `npx temper runs` lists them/,
  );
});

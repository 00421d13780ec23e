import { afterAll, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { WorkflowUpdateFailedError, type WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import type { DeployModelInput } from '../../activities/deploy-model.ts';
import type { DiscardCandidateInput } from '../../activities/discard-candidate.ts';
import type { Activities } from '../../activities/index.ts';
import type { RollbackPlan } from '../../activities/roll-back.ts';
import type { fineTune } from '../../workflows/fine-tune.ts';
import type { RunProgress } from '../../workflows/progress.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import type { rollback } from '../../workflows/rollback.ts';
import { evaluation, quickActivities, type Calls } from '../support/activities.ts';
import { startServer, withWorkers } from '../support/temporal.ts';

// What stands between a merged model and its users: gates, a person, and the watch after the swap.
jest.setTimeout(60_000);
let env: TestWorkflowEnvironment;
let calls: Calls;
let runs = 0;

beforeAll(async () => {
  env = await startServer();
});
afterAll(async () => env.teardown());
beforeEach(() => {
  calls = [];
});

test('a model that fails a gate ends the run as rejected, and nothing is deployed', async () => {
  let discarded: DiscardCandidateInput | undefined;
  const changes: Partial<Activities> = {
    evaluateModel: async () => evaluation(false),
    discardCandidate: async (input) => ((discarded = input), { headline: 'gone' }),
  };
  await withWorkers(env, quickActivities(calls, changes), async () => {
    const handle = await start();
    expect(await handle.result()).toMatchObject({
      outcome: 'rejected',
      why: 'failed maxRegression: it is worse',
      apiUrl: null,
    });
    expect((await handle.describe()).status.name).toBe('COMPLETED');
    expect(await stateOf(handle)).toMatchObject({ state: 'skipped', headline: 'failed maxRegression: it is worse' });
  });
  expect(calls).not.toContain('deployModel');
  expect(discarded?.rejected).toMatchObject({ why: 'failed maxRegression: it is worse' });
});

test('a model that is rolled back ends the run as that, with why', async () => {
  const deployModel: Activities['deployModel'] = async () => ({
    ...{
      name: 'demo',
      outcome: 'rolledBack',
      why: 'it died',
      apiUrl: 'http://127.0.0.1:1',
      pageUrl: null,
      headline: 'back',
    },
  });
  await withWorkers(env, quickActivities(calls, { deployModel }), async () => {
    expect(await (await start()).result()).toMatchObject({ outcome: 'rolledBack', why: 'it died' });
  });
});

test('a deployment that fails leaves no candidate behind', async () => {
  const deployModel: Activities['deployModel'] = async () => {
    throw new Error('no such port');
  };
  await withWorkers(env, quickActivities(calls, { deployModel }), async () => {
    await expect((await start()).result()).rejects.toThrow();
  });
  expect(calls.slice(-2)).toEqual(['discardCandidate', 'recordRun']);
});

describe('with approval manual', () => {
  const word = { by: 'Mei', why: 'looked at 20 answers' };

  test('the run waits, and approve goes on with who and why', async () => {
    let deployed: DeployModelInput | undefined;
    const quick = quickActivities([]);
    const deployModel: Activities['deployModel'] = async (input) => ((deployed = input), quick.deployModel(input));
    await withWorkers(env, await manually({ deployModel }), async () => {
      const handle = await start();
      await untilAsked(handle);
      expect(calls).not.toContain('deployModel');
      await expect(handle.executeUpdate('approve', { args: [{ by: 'Mei' }] })).rejects.toThrow(
        WorkflowUpdateFailedError,
      );
      expect(await handle.executeUpdate('approve', { args: [word] })).toBe('approved by Mei');
      expect(await handle.result()).toMatchObject({ outcome: 'deployed' });
    });
    expect(deployed?.approval).toEqual(word);
  });

  test('reject ends the run as rejected', async () => {
    await withWorkers(env, await manually(), async () => {
      const handle = await start();
      await untilAsked(handle);
      await handle.executeUpdate('reject', { args: [word] });
      expect(await handle.result()).toMatchObject({ outcome: 'rejected', why: 'looked at 20 answers' });
    });
    expect(calls).toContain('discardCandidate');
    expect(calls).not.toContain('deployModel');
  });

  test('nobody answers: rejected after approvalHours', async () => {
    await withWorkers(env, await manually({}, 1 / 3600), async () => {
      expect(await (await start()).result()).toMatchObject({
        outcome: 'rejected',
        why: expect.stringMatching(/nobody approved it within/),
      });
    });
  });

  test('an approval of a run that waits for none is refused', async () => {
    let proceed = () => {};
    const gate = new Promise<void>((resolve) => (proceed = resolve));
    const quick = quickActivities([]);
    const evaluateModel: Activities['evaluateModel'] = async (input) => (await gate, quick.evaluateModel(input));
    await withWorkers(env, await manually({ evaluateModel }), async () => {
      const handle = await start();
      const refused = await handle.executeUpdate('approve', { args: [word] }).catch((error: unknown) => error);
      expect((refused as WorkflowUpdateFailedError).cause?.message).toMatch(/no candidate of this run waits/);
      proceed();
      await untilAsked(handle);
      await handle.executeUpdate('approve', { args: [word] });
      await handle.result();
    });
  });
});

test('rollback plans, then swaps what it planned, with who and why', async () => {
  const release = (runName: string) => ({ runName }) as RollbackPlan['to'];
  const asked: unknown[] = [];
  const changes: Partial<Activities> = {
    planRollback: async () => ({ from: release('two'), to: release('one'), headline: 'cards: two → one' }),
    applyRollback: async (input) => {
      asked.push(input);
      return { fromRun: 'two', toRun: 'one', apiUrl: 'http://a', pageUrl: 'http://p', headline: 'done' };
    },
  };
  await withWorkers(env, quickActivities(calls, changes), async () => {
    const handle = await env.client.workflow.start<typeof rollback>('rollback', {
      ...{ taskQueue: TASK_QUEUE, workflowId: `rollback-${++runs}` },
      args: [{ deployment: 'cards', by: 'Mei', why: 'it is slow' }],
    });
    expect(await handle.result()).toMatchObject({ fromRun: 'two', toRun: 'one' });
  });
  expect(asked).toEqual([{ plan: { from: release('two'), to: release('one') }, by: 'Mei', why: 'it is slow' }]);
});

async function manually(changes: Partial<Activities> = {}, approvalHours = 1): Promise<Activities> {
  const loaded = await quickActivities([]).loadConfig(undefined as never);
  const config = { ...loaded.config, deploy: { ...loaded.config.deploy, approval: 'manual' as const, approvalHours } };
  return quickActivities(calls, { loadConfig: async () => ({ ...loaded, config }), ...changes });
}

async function start(): Promise<WorkflowHandle<typeof fineTune>> {
  const options = { taskQueue: TASK_QUEUE, workflowId: `admission-${++runs}` };
  return env.client.workflow.start<typeof fineTune>('fineTune', { ...options, args: [{ config: 'demo' }] });
}

async function stateOf(handle: WorkflowHandle<typeof fineTune>) {
  const { stages } = await handle.query<RunProgress>('progress');
  return stages.find(({ stage }) => stage === 'deployModel');
}

async function untilAsked(handle: WorkflowHandle<typeof fineTune>): Promise<void> {
  for (let tries = 0; (await stateOf(handle))?.state !== 'awaitingApproval'; tries++) {
    if (tries > 400) throw new Error('it does not ask for approval');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

import { afterAll, beforeAll, beforeEach, expect, jest, test } from '@jest/globals';
import { Context } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import type { Activities } from '../../activities/index.ts';
import { rootCause } from '../../cli/workflow-error.ts';
import { messageOf } from '../../host/errors.ts';
import type { FineTuneResult } from '../../workflows/fine-tune.ts';
import type { RunProgress } from '../../workflows/progress.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import { quickActivities } from '../support/activities.ts';
import { startServer, withWorkers } from '../support/temporal.ts';

// A training of the hosts a and b on a real server; the stages are quick.
jest.setTimeout(90_000);

let env: TestWorkflowEnvironment;
let told: string[];
beforeAll(async () => {
  env = await startServer();
});
afterAll(() => env.teardown());
beforeEach(() => {
  told = [];
});

type Changes = Partial<Pick<Activities, 'trainModel' | 'joinTraining'>>;

async function run(workflowId: string, changes: Changes): Promise<FineTuneResult> {
  const quick = quickActivities([]);
  const on = (host: string): Activities => ({
    ...quick,
    listHosts: async () => ({ hosts: ['a'], headline: 'a' }),
    planTraining: async (input) => {
      const { plan, headline } = await quick.planTraining(input);
      return { plan: { ...plan, together: { hosts: ['a', 'b'], rendezvous: '127.0.0.1:29400' } }, headline };
    },
    trainModel: async (input) => {
      told.push(`${host} leads`);
      return (changes.trainModel ?? quick.trainModel)(input);
    },
    joinTraining: async (input) => {
      told.push(`${host} joins as ${input.rank}`);
      return (changes.joinTraining ?? quick.joinTraining)(input);
    },
  });
  return withWorkers(
    env,
    on('a'),
    () =>
      withWorkers(
        env,
        on('b'),
        () =>
          env.client.workflow.execute('fineTune', {
            ...{ taskQueue: TASK_QUEUE, workflowId, args: [{ config: 'demo' }] },
          }) as Promise<FineTuneResult>,
        'b',
      ),
    'a',
  );
}

/** An activity that goes on until it is cancelled, and tells that it was. */
function untilCancelled(what: string): () => Promise<never> {
  return async () => {
    const { cancelled, heartbeat } = Context.current();
    const beat = setInterval(() => heartbeat(), 100);
    try {
      return await cancelled;
    } finally {
      clearInterval(beat);
      told.push(`${what} is cancelled`);
    }
  };
}

async function failureOf(result: Promise<unknown>): Promise<string> {
  return result.then(
    () => 'did not fail',
    (error: unknown) => messageOf(rootCause(error)),
  );
}

test('the other host does its part while the first one leads, and the run goes on when both have ended', async () => {
  expect((await run('together', {})).outcome).toBe('deployed');
  expect(told.sort()).toEqual(['a leads', 'b joins as 1']);
});

test("when the training fails for good the other host's part is ended, too", async () => {
  const trainModel = async () => {
    while (!told.includes('b joins as 1')) await new Promise((resolve) => setTimeout(resolve, 20));
    throw ApplicationFailure.nonRetryable('A row is too long.', 'DatasetError');
  };
  const failure = await failureOf(run('leader-fails', { trainModel, joinTraining: untilCancelled('the part') }));
  expect(failure).toBe('A row is too long.');
  expect(told.at(-1)).toBe('the part is cancelled');
});

test("when the other host can't do its part the training is ended, and the run says why", async () => {
  const joinTraining = async () => {
    throw ApplicationFailure.nonRetryable("Host b can't train together with the others.", 'HostError');
  };
  const failure = await failureOf(run('part-fails', { trainModel: untilCancelled('the training'), joinTraining }));
  expect(failure).toBe("Host b can't train together with the others.");
  expect(told.at(-1)).toBe('the training is cancelled');
  const progress = await withWorkers(env, quickActivities([]), () =>
    env.client.workflow.getHandle('part-fails').query<RunProgress>('progress'),
  );
  expect(progress.stages.find(({ stage }) => stage === 'trainModel')).toMatchObject({
    ...{ state: 'failed', headline: "Host b can't train together with the others." },
  });
});

import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Worker, type WorkerOptions } from '@temporalio/worker';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Activities } from '../../activities/index.ts';
import { checkout } from '../../host/checkout.ts';
import type { FineTuneResult } from '../../workflows/fine-tune.ts';
import { GPU_TASK_QUEUE, hostQueue, TASK_QUEUE } from '../../workflows/queues.ts';
import { quickActivities } from '../support/activities.ts';
import { startServer, workflowBundle } from '../support/temporal.ts';

// Runs that begin on the workflow code of one release while another comes, on a real server.
jest.setTimeout(90_000);

const releases = readdirSync(join(checkout, 'test/fixtures/releases'));

let env: TestWorkflowEnvironment;
beforeEach(async () => {
  env = await startServer();
});
afterEach(async () => env.teardown());

type Code = Pick<WorkerOptions, 'workflowBundle' | 'workerDeploymentOptions'>;

async function codeOf(release: string): Promise<Code> {
  const workflowsPath = join(checkout, 'test/fixtures/releases', release, 'workflows/index.ts');
  return { workflowBundle: await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR') }) };
}

const current: Code = { workflowBundle };

function versioned(code: Code, buildId: string): Code {
  const version = { deploymentName: 'temper', buildId };
  const workerDeploymentOptions = {
    version,
    useWorkerVersioning: true as const,
    defaultVersioningBehavior: 'PINNED' as const,
  };
  return { ...code, workerDeploymentOptions };
}

/** Do `work` while a host's workers run on this code, as workers/gpu-host.ts starts them. */
async function withCode<T>(code: Code, activities: Activities, work: () => Promise<T>): Promise<T> {
  const connection = await NativeConnection.connect({ address: env.address });
  const common = { connection, activities, identity: '1@here' };
  const [worker, ...others] = await Promise.all([
    Worker.create({ ...common, ...code, taskQueue: TASK_QUEUE }),
    ...[hostQueue('here'), GPU_TASK_QUEUE].map((taskQueue) => Worker.create({ ...common, taskQueue })),
  ]);
  try {
    return await others.reduce(
      (inner, each) => () => each.runUntil(inner()),
      () => worker.runUntil(work()),
    )();
  } finally {
    await connection.close();
  }
}

async function start(workflowId: string) {
  return env.client.workflow.start<(input: object) => Promise<FineTuneResult>>('fineTune', {
    ...{ taskQueue: TASK_QUEUE, workflowId, args: [{ config: 'demo' }] },
  });
}

/** A training that goes on until it is told how to end. */
class SlowTraining {
  began: Promise<void>;
  #begins: () => void = () => {};
  end: (error?: Error) => void = () => {};
  readonly #ended: Promise<Error | undefined>;

  constructor() {
    this.began = new Promise((resolve) => (this.#begins = resolve));
    this.#ended = new Promise((resolve) => (this.end = resolve));
  }

  activities(): Activities {
    const { trainModel } = quickActivities([]);
    return quickActivities([], {
      trainModel: async (input) => {
        this.#begins();
        const error = await this.#ended;
        if (error !== undefined) throw error;
        return trainModel(input);
      },
    });
  }
}

test.each(releases)('a run that was begun on release %s ends on the current one', async (release) => {
  const training = new SlowTraining();
  const handle = await withCode(await codeOf(release), training.activities(), async () => {
    const begun = await start('month-long');
    await training.began;
    training.end(new Error('the worker is replaced'));
    return begun;
  });
  const calls: string[] = [];
  const result = await withCode(current, quickActivities(calls), () => handle.result());
  expect(result.outcome).toBe('deployed');
  expect(calls).toContain('deployModel');
});

test('with versioned workers a run ends on the code it began on, and new ones go to the version made current', async () => {
  const [release] = releases as [string];
  const training = new SlowTraining();
  const [older, newer] = [versioned(await codeOf(release), 'older'), versioned(current, 'newer')];
  await withCode(older, training.activities(), async () => {
    await makeCurrent('older');
    const long = await start('long');
    await training.began;
    const short = await withCode(newer, training.activities(), async () => {
      await makeCurrent('newer');
      const begun = await start('short');
      training.end();
      return begun.result();
    });
    expect([short.outcome, (await long.result()).outcome]).toEqual(['deployed', 'deployed']);
    expect([await versionOf('long'), await versionOf('short')]).toEqual(['older', 'newer']);
  });
});

/** As `temporal worker deployment set-current-version` does, once the server knows of the version. */
async function makeCurrent(buildId: string): Promise<void> {
  const request = { namespace: 'default', deploymentName: 'temper', buildId, identity: 'test' };
  for (;;) {
    try {
      await env.client.workflowService.setWorkerDeploymentCurrentVersion(request);
      return;
    } catch (error) {
      if (!/not found|no.*polled|NOT_FOUND/i.test(String(error))) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

async function versionOf(workflowId: string): Promise<string | undefined> {
  const { raw } = await env.client.workflow.getHandle(workflowId).describe();
  return raw.workflowExecutionInfo?.versioningInfo?.deploymentVersion?.buildId ?? undefined;
}

import { TestWorkflowEnvironment } from '@temporalio/testing';
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker';
import { join } from 'node:path';
import type { Activities } from '../../activities/index.ts';
import { checkout, temporalCli } from '../../host/checkout.ts';
import { GPU_TASK_QUEUE, TASK_QUEUE } from '../../workflows/queues.ts';

/** The built workflow code, as a worker in production loads it. */
export const workflowBundle = { codePath: join(checkout, 'dist/workflow-bundle.cjs') };

/** Only errors in the log. */
export function quietRuntime(): void {
  Runtime.install({ logger: new DefaultLogger('ERROR'), telemetryOptions: { logging: { filter: 'ERROR' } } });
}

/** A real Temporal server of its own, from the CLI that set-up installs. */
export async function startServer(): Promise<TestWorkflowEnvironment> {
  quietRuntime();
  return TestWorkflowEnvironment.createLocal({ server: { executable: { type: 'existing-path', path: temporalCli } } });
}

/** Run `work` while workers for both queues offer the given activities. */
export async function withWorkers<T>(
  env: TestWorkflowEnvironment,
  activities: Partial<Activities>,
  work: () => Promise<T>,
): Promise<T> {
  const common = { connection: env.nativeConnection, activities };
  const worker = await Worker.create({ ...common, taskQueue: TASK_QUEUE, workflowBundle });
  const gpuWorker = await Worker.create({
    ...common,
    taskQueue: GPU_TASK_QUEUE,
    maxConcurrentActivityTaskExecutions: 1,
  });
  return worker.runUntil(gpuWorker.runUntil(work));
}

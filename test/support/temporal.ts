import { TestWorkflowEnvironment } from '@temporalio/testing';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { join } from 'node:path';
import type { Activities } from '../../activities/index.ts';
import { checkout, temporalCli } from '../../host/checkout.ts';
import { hostQueue, TASK_QUEUE } from '../../workflows/queues.ts';

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

/** Run `work` while a host's workers offer the given activities; tests call their host `here`. */
export async function withWorkers<T>(
  env: TestWorkflowEnvironment,
  activities: Partial<Activities>,
  work: () => Promise<T>,
  host = 'here',
): Promise<T> {
  // Two workers of one queue may not share a connection.
  const connection = await NativeConnection.connect({ address: env.address });
  const common = { connection, activities, identity: `${process.pid}@${host}` };
  const worker = await Worker.create({ ...common, taskQueue: TASK_QUEUE, workflowBundle });
  const hostWorker = await Worker.create({ ...common, taskQueue: hostQueue(host) });
  try {
    return await worker.runUntil(hostWorker.runUntil(work));
  } finally {
    await connection.close();
  }
}

import { DefaultLogger, Runtime, Worker, type NativeConnection, type WorkerOptions } from '@temporalio/worker';
import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { createActivities, type Activities } from '../activities/index.ts';
import { checkout } from '../host/checkout.ts';
import type { HostSettings } from '../host/settings.ts';
import { GPU_TASK_QUEUE, TASK_QUEUE } from '../workflows/queues.ts';
import { watchOrphans } from './orphans.ts';

/** A host's workers: workflow tasks and light activities on one queue, activities that need a GPU on the other. */
export interface GpuHost {
  /** Settles when both workers have stopped. */
  stopped: Promise<void>;
  shutdown(): void;
}

/** Heartbeats reach the server within 5 s, so that a minute's heartbeat timeout outlives an outage of most of a minute. */
const MAX_HEARTBEAT_THROTTLE = '5s';

/**
 * Start this host's workers on an open connection; they stop on SIGINT and SIGTERM, leaving trainers running. Other
 * activities than the host's own are for tests.
 */
export async function startGpuHost(
  settings: HostSettings,
  connection: NativeConnection,
  namespace: string,
  activities: Activities = createActivities(settings),
): Promise<GpuHost> {
  const common: Pick<
    WorkerOptions,
    'connection' | 'namespace' | 'activities' | 'identity' | 'maxHeartbeatThrottleInterval' | 'shutdownForceTime'
  > = {
    connection,
    namespace,
    activities,
    identity: `${process.pid}@${hostname()}`,
    maxHeartbeatThrottleInterval: MAX_HEARTBEAT_THROTTLE,
    shutdownForceTime: '30s',
  };
  const worker = await Worker.create({ ...common, taskQueue: TASK_QUEUE, ...workflowCode() });
  const gpuWorker = await Worker.create({
    ...common,
    taskQueue: GPU_TASK_QUEUE,
    maxConcurrentActivityTaskExecutions: settings.gpuSlots,
  });
  const stopWatching = watchOrphans(settings, connection, namespace);
  const stopped = Promise.allSettled([worker.run(), gpuWorker.run()]).then(async (ends) => {
    stopWatching();
    await connection.close();
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
  });
  return {
    stopped,
    shutdown() {
      for (const each of [worker, gpuWorker]) if (each.getState() === 'RUNNING') each.shutdown();
    },
  };
}

/** Quiet logs: warnings and worse on stderr. Call once, before anything else of the worker. */
export function installRuntime(): void {
  Runtime.install({
    logger: new DefaultLogger('WARN'),
    shutdownSignals: ['SIGINT', 'SIGTERM'],
    telemetryOptions: { logging: { filter: 'WARN' } },
  });
}

/** The bundle of the build, or the sources when nothing is built. */
function workflowCode(): Pick<WorkerOptions, 'workflowBundle' | 'workflowsPath'> {
  const codePath = join(checkout, 'dist/workflow-bundle.cjs');
  if (existsSync(codePath)) return { workflowBundle: { codePath } };
  return { workflowsPath: join(checkout, 'workflows/index.ts') };
}

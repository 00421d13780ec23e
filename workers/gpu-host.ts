import { DefaultLogger, Runtime, Worker, type NativeConnection, type WorkerOptions } from '@temporalio/worker';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createActivities, type Activities } from '../activities/index.ts';
import { checkout } from '../host/checkout.ts';
import { markLostClaims } from '../host/gpu-slots.ts';
import type { HostSettings } from '../host/settings.ts';
import { GPU_TASK_QUEUE, hostQueue, TASK_QUEUE } from '../workflows/queues.ts';
import { giveUpDeadAttempts } from './dead-attempts.ts';
import { sdkMetrics } from './metrics.ts';
import { readDataConverter } from './payload-codec.ts';
import { watchOrphans } from './orphans.ts';
import { haveSearchAttributes } from './search-attributes.ts';

/** A host's workers: workflow tasks and what any host can do on the shared queue, what has to be done here on its own. */
export interface GpuHost {
  /** Settles when all workers have stopped. */
  stopped: Promise<void>;
  shutdown(): void;
}

/** Heartbeats reach the server within 5 s, so that a minute's heartbeat timeout outlives an outage of most of a minute. */
const MAX_HEARTBEAT_THROTTLE = '5s';

/** Most of them wait for a GPU slot; one that waits in the queue would look as if the host were away. */
const MAX_ACTIVITIES = 1000;

/**
 * Start this host's workers on an open connection; they stop on SIGINT and SIGTERM, leaving trainers running. Other
 * activities than the host's own are for tests.
 */
export async function startGpuHost(
  settings: HostSettings,
  connection: NativeConnection,
  namespace: string,
  ofTest?: Activities,
): Promise<GpuHost> {
  await markLostClaims(settings.home);
  const isIndexed = await haveSearchAttributes(connection, namespace);
  const activities = ofTest ?? createActivities({ ...settings, isIndexed });
  const common: Pick<
    WorkerOptions,
    | 'connection'
    | 'namespace'
    | 'activities'
    | 'dataConverter'
    | 'identity'
    | 'maxHeartbeatThrottleInterval'
    | 'shutdownForceTime'
  > = {
    connection,
    namespace,
    activities,
    ...readDataConverter(),
    identity: `${process.pid}@${settings.hostName}`,
    maxHeartbeatThrottleInterval: MAX_HEARTBEAT_THROTTLE,
    shutdownForceTime: '30s',
  };
  // A server allows 1200 polls at once in a namespace (frontend.namespaceCount): the default of 10 each is for 30 hosts.
  const onlyActivities = (taskQueue: string, polls: number) =>
    Worker.create({
      ...{ ...common, taskQueue, maxConcurrentActivityTaskPolls: polls },
      maxConcurrentActivityTaskExecutions: MAX_ACTIVITIES,
    });
  const workers = await Promise.all([
    Worker.create({
      ...{ ...common, taskQueue: TASK_QUEUE, ...workflowCode(), ...versioning() },
      ...{ maxConcurrentWorkflowTaskPolls: 4, maxConcurrentActivityTaskPolls: 2 },
    }),
    onlyActivities(hostQueue(settings.hostName), 4),
    onlyActivities(GPU_TASK_QUEUE, 1),
  ]);
  void giveUpDeadAttempts(settings, connection, namespace).catch((error: unknown) => console.error(error));
  const stopWatching = watchOrphans(settings, connection, namespace);
  const stopped = Promise.allSettled(workers.map((worker) => worker.run())).then(async (ends) => {
    stopWatching();
    await connection.close();
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
  });
  return {
    stopped,
    shutdown() {
      for (const each of workers) if (each.getState() === 'RUNNING') each.shutdown();
    },
  };
}

/** Quiet logs: warnings and worse on stderr. Call once, before anything else of the worker. */
export function installRuntime(): void {
  Runtime.install({
    logger: new DefaultLogger('WARN'),
    shutdownSignals: ['SIGINT', 'SIGTERM'],
    telemetryOptions: { logging: { filter: 'WARN' }, ...sdkMetrics() },
  });
}

/**
 * With TEMPER_BUILD_ID each run ends on the workflow code that it began on: such a worker gets new runs once its version is made
 * current, and those of its own version. Without it every worker takes all runs, and code that has changed replays them.
 */
function versioning(buildId = process.env.TEMPER_BUILD_ID): Pick<WorkerOptions, 'workerDeploymentOptions'> {
  if (buildId === undefined || buildId === '') return {};
  const version = { deploymentName: 'temper', buildId };
  return { workerDeploymentOptions: { version, useWorkerVersioning: true, defaultVersioningBehavior: 'PINNED' } };
}

/** The bundle of the build, or the sources when nothing is built. */
function workflowCode(): Pick<WorkerOptions, 'workflowBundle' | 'workflowsPath'> {
  const codePath = join(checkout, 'dist/workflow-bundle.cjs');
  if (existsSync(codePath)) return { workflowBundle: { codePath } };
  return { workflowsPath: join(checkout, 'workflows/index.ts') };
}

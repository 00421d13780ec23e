import { proxyActivities, type ActivityInterfaceFor, type ActivityOptions } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import type { ErrorName } from '../host/errors.ts';
import { GPU_TASK_QUEUE, hostQueue } from './queues.ts';

/** Whether another attempt can help; the one place that decides it. */
const retried: Record<ErrorName, boolean> = {
  ConfigError: false,
  DatasetError: false,
  HostError: false,
  OutOfMemoryError: false,
  DiskFullError: true,
  DownloadError: true,
  TrainerError: true,
  DeploymentError: true,
  NotificationError: true,
};

const nonRetryableErrorTypes = Object.entries(retried).flatMap(([name, again]) => (again ? [] : [name]));

/** Heartbeats come every 2 s; a minute without one means that the worker is gone. */
const heartbeatTimeout = '60s';

const retry = { initialInterval: '5s', maximumInterval: '5m', maximumAttempts: 5, nonRetryableErrorTypes };

const light: ActivityOptions = {
  ...{ startToCloseTimeout: '5m', heartbeatTimeout },
  retry: { ...retry, initialInterval: '1s' },
};

/** Where a run's activities go, and how long its host may be away before the run is moved or given up. */
export interface HostOptions {
  name: string;
  awayHours: number;
}

/** Asked of whichever worker is there. */
export const { listHosts } = proxyActivities<Activities>(light);

/** Asked of hosts that may have gone a minute ago; one that does not answer at once is not waited for. */
export function askHost(host: string): ActivityInterfaceFor<Activities>['describeHost'] {
  return proxyActivities<Activities>({
    ...{ taskQueue: hostQueue(host), startToCloseTimeout: '1m', scheduleToStartTimeout: '10s' },
    retry: { maximumAttempts: 1 },
  }).describeHost;
}

/** As long as `trainModel`, on a host beside the run's own. */
export function joinTraining(host: string, awayHours: number): ActivityInterfaceFor<Activities>['joinTraining'] {
  return proxyActivities<Activities>({
    ...{ taskQueue: hostQueue(host), scheduleToStartTimeout: `${awayHours}h` },
    ...{ startToCloseTimeout: '60 days', heartbeatTimeout, cancellationType: 'WAIT_CANCELLATION_COMPLETED' },
    retry: { ...retry, maximumAttempts: Infinity, maximumInterval: '1m' },
  }).joinTraining;
}

/**
 * Tell a receiver, for a day if it must be. By the run's host, whose environment has the receiver's address; any host, where it is
 * not known.
 */
export function notifyFrom(host: string | null): ActivityInterfaceFor<Activities>['notify'] {
  return proxyActivities<Activities>({
    ...(host === null ? {} : { taskQueue: hostQueue(host) }),
    ...{ startToCloseTimeout: '1m', scheduleToCloseTimeout: '24h' },
    retry: { initialInterval: '5s', maximumInterval: '10m', nonRetryableErrorTypes },
  }).notify;
}

export type Stages = Omit<ActivityInterfaceFor<Activities>, 'listHosts' | 'describeHost' | 'joinTraining' | 'notify'>;

/**
 * The stages as they are called; on a host's queue none waits for a GPU slot in the queue, so that one that is not begun for hours
 * means that the host is away. Without a host they go to the queues of runs that were started before hosts had their own.
 */
export function stagesOn(host: HostOptions | null): Stages {
  const here: ActivityOptions =
    host === null ? {} : { taskQueue: hostQueue(host.name), scheduleToStartTimeout: `${host.awayHours}h` };
  const onGpu: ActivityOptions = {
    ...(host === null ? { taskQueue: GPU_TASK_QUEUE } : here),
    startToCloseTimeout: '60 days',
    heartbeatTimeout,
    cancellationType: 'WAIT_CANCELLATION_COMPLETED',
  };

  /** Reads and small writes, done at once. */
  const { loadConfig, planTraining, recordRun, requestStop, planRollback } = proxyActivities<Activities>({
    ...light,
    ...here,
  });

  /** Reads every run's folder or all rows of two, or removes gigabytes. */
  const { detectChange, planCleanRuns, applyCleanRuns } = proxyActivities<Activities>({
    ...{ ...here, startToCloseTimeout: '2h', heartbeatTimeout, retry },
  });

  /** Fetches the base first, which may be 70 GB over a slow line; twelve attempts outlast half an hour without network. */
  const { checkEnvironment } = proxyActivities<Activities>({
    ...{ ...here, startToCloseTimeout: '48h', heartbeatTimeout, retry: { ...retry, maximumAttempts: 12 } },
  });

  const { validateDataset, mergeAdapter } = proxyActivities<Activities>({
    ...{ ...here, startToCloseTimeout: '24h', heartbeatTimeout, retry },
  });

  /** Has no limit of attempts: deploys and outages use them up, and a crash loop ends itself (`activities/train-model.ts`). */
  const { trainModel } = proxyActivities<Activities>({
    ...{ ...onGpu, retry: { ...retry, maximumAttempts: Infinity, maximumInterval: '1m' } },
  });

  const { patchFp16, evaluateModel } = proxyActivities<Activities>({ ...onGpu, priority: { priorityKey: 2 }, retry });

  const { deployModel } = proxyActivities<Activities>({
    ...{ ...onGpu, priority: { priorityKey: 2 }, retry: { ...retry, maximumAttempts: 3 } },
  });

  /** Wait for no GPU slot, since users do: the one they get has to serve. */
  const { discardCandidate, applyRollback } = proxyActivities<Activities>({
    ...{ ...here, startToCloseTimeout: '2h', heartbeatTimeout, cancellationType: 'WAIT_CANCELLATION_COMPLETED' },
    retry: { ...retry, maximumAttempts: 3 },
  });

  return {
    ...{
      loadConfig,
      checkEnvironment,
      validateDataset,
      detectChange,
      planTraining,
      trainModel,
      mergeAdapter,
      patchFp16,
    },
    ...{ evaluateModel, deployModel, discardCandidate, requestStop, recordRun },
    ...{ planRollback, applyRollback, planCleanRuns, applyCleanRuns },
  };
}

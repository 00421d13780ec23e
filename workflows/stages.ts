import { proxyActivities, type ActivityOptions } from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import type { ErrorName } from '../host/errors.ts';
import { GPU_TASK_QUEUE } from './queues.ts';

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
};

const nonRetryableErrorTypes = Object.entries(retried).flatMap(([name, again]) => (again ? [] : [name]));

/** Heartbeats come every 2 s; a minute without one means that the worker is gone. */
const heartbeatTimeout = '60s';

const retry = { initialInterval: '5s', maximumInterval: '5m', maximumAttempts: 5, nonRetryableErrorTypes };

const light: ActivityOptions = { startToCloseTimeout: '5m', retry: { ...retry, initialInterval: '1s' } };

/** Reads and small writes; any worker of the host does them at once. */
export const { loadConfig, recordRun, requestStop, planRollback } = proxyActivities<Activities>(light);

/** Fetches the base first, which may be 70 GB over a slow line; twelve attempts outlast half an hour without network. */
export const { checkEnvironment } = proxyActivities<Activities>({
  startToCloseTimeout: '48h',
  heartbeatTimeout,
  retry: { ...retry, maximumAttempts: 12 },
});

export const { validateDataset, mergeAdapter } = proxyActivities<Activities>({
  startToCloseTimeout: '24h',
  heartbeatTimeout,
  retry,
});

/** Has no limit of attempts: deploys and outages use them up, and a crash loop ends itself (`activities/train-model.ts`). */
export const { trainModel } = proxyActivities<Activities>({
  taskQueue: GPU_TASK_QUEUE,
  startToCloseTimeout: '60 days',
  heartbeatTimeout,
  cancellationType: 'WAIT_CANCELLATION_COMPLETED',
  retry: { ...retry, maximumAttempts: Infinity, maximumInterval: '1m' },
});

/** Wait for no GPU slot, since users do: the one they get has to serve. */
export const { discardCandidate, applyRollback } = proxyActivities<Activities>({
  startToCloseTimeout: '2h',
  heartbeatTimeout,
  cancellationType: 'WAIT_CANCELLATION_COMPLETED',
  retry: { ...retry, maximumAttempts: 3 },
});

/** Goes before waiting trainings, so that a run whose training is done is in service before the next one trains. */
export const { patchFp16, evaluateModel } = proxyActivities<Activities>({
  taskQueue: GPU_TASK_QUEUE,
  priority: { priorityKey: 2 },
  startToCloseTimeout: '6h',
  heartbeatTimeout,
  cancellationType: 'WAIT_CANCELLATION_COMPLETED',
  retry,
});

/** A model may be watched for a day after its swap. */
export const { deployModel } = proxyActivities<Activities>({
  taskQueue: GPU_TASK_QUEUE,
  priority: { priorityKey: 2 },
  startToCloseTimeout: '30h',
  heartbeatTimeout,
  cancellationType: 'WAIT_CANCELLATION_COMPLETED',
  retry: { ...retry, maximumAttempts: 3 },
});

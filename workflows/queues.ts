/** The queue of workflow tasks, and of activities that any host can do. */
export const TASK_QUEUE = 'temper';

/** The queue of runs that were started before hosts had queues of their own; workers go on serving it for them. */
export const GPU_TASK_QUEUE = 'temper-gpu';

/** The queue of what has to be done on one host, where a run's checkpoints are. */
export function hostQueue(host: string): string {
  return `${TASK_QUEUE}@${host}`;
}

/** The queue of workflow tasks and of activities that need no GPU. */
export const TASK_QUEUE = 'temper';

/** The queue of activities that need a GPU; its workers take one at a time per GPU slot. */
export const GPU_TASK_QUEUE = 'temper-gpu';

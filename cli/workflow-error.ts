import { WorkflowFailedError } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { errorNames, TemperError } from '../host/errors.ts';

/** What made a workflow fail, as the error that an activity raised; any other error as it is. */
export function rootCause(error: unknown): unknown {
  let root: unknown = error instanceof WorkflowFailedError ? error.cause : error;
  while (root instanceof Error && root.cause instanceof Error && !(root instanceof ApplicationFailure))
    root = root.cause;
  const name = root instanceof ApplicationFailure ? errorNames.find((known) => known === root.type) : undefined;
  return name === undefined ? root : new TemperError(name, (root as Error).message);
}

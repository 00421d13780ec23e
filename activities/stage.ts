import { ApplicationFailure, CancelledFailure, Context } from '@temporalio/activity';
import { errorNameOf, messageOf } from '../host/errors.ts';
import { openRunDirectory, runDirectory, type RunDirectory } from '../host/run-directory.ts';
import type { HostSettings } from '../host/settings.ts';

/** What every stage's work is given beside its input. */
export interface StageContext {
  settings: HostSettings;
  runName: string;
  /** Temporal's Run ID: another one each time a run of this name is started. */
  executionId: string;
  run: RunDirectory;
  /** Aborts when Temporal wants this attempt to end, for whatever reason; its reason is a CancelledFailure. */
  signal: AbortSignal;
  attempt: number;
  /** Names this attempt among all that ever worked on the run. */
  owner: string;
  /** What the next heartbeats say; shown under the workflow's pending activities. */
  report: (details: Record<string, unknown>) => void;
}

export interface StageResult {
  /** The stage's main figure for people, one line. */
  headline: string;
  /** The attempt that brought the result. */
  attempt?: number;
}

const HEARTBEAT_MS = 2_000;

/**
 * Make an activity of a stage's work: it heartbeats from a timer, announces to the workflow that it began, and names its errors.
 * Work that is no part of a run (`ofRun` false) gets no run directory.
 */
export function stage<I, O extends StageResult>(
  name: string,
  settings: HostSettings,
  work: (input: I, context: StageContext) => Promise<O>,
  { announced = true, ofRun = true } = {},
): (input: I) => Promise<O> {
  return async (input) => {
    const context = Context.current();
    const { workflowExecution, attempt } = context.info;
    const runName = workflowExecution?.workflowId ?? '';
    let details: Record<string, unknown> = { stage: name };
    context.heartbeat(details);
    const timer = setInterval(() => context.heartbeat(details), HEARTBEAT_MS);
    try {
      if (announced) await tellStarted(name, attempt);
      const result = await work(input, {
        settings,
        runName,
        executionId: workflowExecution?.runId ?? '',
        run: (ofRun ? openRunDirectory : runDirectory)(settings.home, runName),
        signal: context.cancellationSignal,
        attempt,
        owner: `${workflowExecution?.runId}/${context.info.activityId}/${attempt}`,
        report: (now) => (details = { stage: name, ...now }),
      });
      context.cancellationSignal.throwIfAborted();
      return { ...result, attempt };
    } catch (error) {
      throw toFailure(error);
    } finally {
      context.heartbeat(details);
      clearInterval(timer);
    }
  };
}

/** An error as Temporal takes it: cancellation and failures as they are, a named error by its name and message alone. */
function toFailure(error: unknown): unknown {
  if (error instanceof CancelledFailure || error instanceof ApplicationFailure) return error;
  const name = errorNameOf(error);
  if (name === undefined) return error;
  const { details } = error as { details?: unknown };
  return ApplicationFailure.create({
    type: name,
    message: messageOf(error),
    details: details === undefined ? [] : [details],
    ...(error instanceof Error ? { cause: error } : {}),
  });
}

/** Signals the workflow that an attempt began; history stays small, so only for the first few, and never at the price of the stage. */
async function tellStarted(stageName: string, attempt: number): Promise<void> {
  const context = Context.current();
  const { workflowExecution } = context.info;
  if (attempt > 5 || workflowExecution === undefined) return;
  try {
    const handle = context.client.workflow.getHandle(workflowExecution.workflowId, workflowExecution.runId);
    await handle.signal('stageStarted', { stage: stageName, attempt });
  } catch (error) {
    context.log.warn('could not tell the workflow that the stage began', { reason: messageOf(error) });
  }
}

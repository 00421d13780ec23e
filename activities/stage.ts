import { ApplicationFailure, CancelledFailure, Context } from '@temporalio/activity';
import { errorNameOf, messageOf, TemperError } from '../host/errors.ts';
import { whileHoldingSlot } from '../host/gpu-slots.ts';
import { openRunDirectory, runDirectory, type RunDirectory } from '../host/run-directory.ts';
import type { HostSettings } from '../host/settings.ts';
import { noteAttempt, thisWorker, type AttemptEnd } from '../host/stage-attempts.ts';

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

export interface StageOptions {
  /** Whether the workflow is told that an attempt began. */
  announced?: boolean;
  /** Whether the work is part of a run, and gets its run directory. */
  ofRun?: boolean;
  /** For work that needs a GPU: whether it waits before others for a slot, and after how many hours of work it is given up. */
  gpu?: { priority: number; hours?: number };
}

const HEARTBEAT_MS = 2_000;

/** Characters of a failure's message that are kept beside the attempt. */
const MOST_WORDS = 4_000;

/**
 * Make an activity of a stage's work: it heartbeats from a timer, waits for a GPU slot if it needs one, announces to the workflow
 * that it began, and names its errors.
 */
export function stage<I, O extends StageResult>(
  name: string,
  settings: HostSettings,
  work: (input: I, context: StageContext) => Promise<O>,
  { announced = true, ofRun = true, gpu }: StageOptions = {},
): (input: I) => Promise<O> {
  return async (input) => {
    const context = Context.current();
    const { workflowExecution, attempt } = context.info;
    const runName = workflowExecution?.workflowId ?? '';
    let details: Record<string, unknown> = { stage: name };
    context.heartbeat(details);
    const timer = setInterval(() => context.heartbeat(details), HEARTBEAT_MS);
    const report = (now: Record<string, unknown>) => (details = { stage: name, ...now });
    const owner = `${workflowExecution?.runId}/${context.info.activityId}/${attempt}`;
    let noteEnd: NoteEnd | undefined;
    const begin = async (signal: AbortSignal): Promise<O> => {
      const run = (ofRun ? openRunDirectory : runDirectory)(settings.home, runName);
      if (ofRun) noteEnd = noteAttemptOf(name, run);
      if (announced) await tellStarted(name, attempt);
      const executionId = workflowExecution?.runId ?? '';
      return work(input, { settings, runName, executionId, run, signal, attempt, owner, report });
    };
    try {
      const signal = context.cancellationSignal;
      const result =
        gpu === undefined
          ? await begin(signal)
          : await whileHoldingSlot(
              { runName, stage: name, priority: gpu.priority, owner },
              { home: settings.home, slots: settings.gpuSlots, signal, report },
              () => withinHours(name, gpu.hours, signal, begin),
            );
      context.cancellationSignal.throwIfAborted();
      noteEnd?.('done', result.headline);
      return { ...result, attempt };
    } catch (error) {
      const failure = toFailure(error);
      if (failure instanceof CancelledFailure) noteEnd?.('cancelled');
      else noteEnd?.('failed', messageOf(failure), nameOf(failure));
      throw failure;
    } finally {
      context.heartbeat(details);
      clearInterval(timer);
    }
  };
}

/** Give work up that takes longer; waiting for a slot does not count. */
async function withinHours<T>(
  name: string,
  hours: number | undefined,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  if (hours === undefined) return work(signal);
  const timeout = AbortSignal.timeout(hours * 3_600_000);
  try {
    return await work(AbortSignal.any([signal, timeout]));
  } catch (error) {
    if (timeout.aborted && !signal.aborted)
      throw new TemperError('DeploymentError', `${name} was given up after ${hours} h.`, { cause: error });
    throw error;
  }
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

/** What Temporal calls a failure; undefined for an error without a name of Temper's. */
function nameOf(failure: unknown): string | undefined {
  return failure instanceof ApplicationFailure ? (failure.type ?? undefined) : undefined;
}

type NoteEnd = (how: AttemptEnd, headline?: string, error?: string) => void;

/** Write down in the run directory that this attempt began; returns what writes its end. */
function noteAttemptOf(stageName: string, run: RunDirectory): NoteEnd {
  const { workflowExecution, attempt, scheduledTimestampMs, base64TaskToken: taskToken } = Context.current().info;
  const who = { stage: stageName, executionId: workflowExecution?.runId ?? '', attempt };
  const now = () => new Date().toISOString();
  const scheduledAt = new Date(scheduledTimestampMs).toISOString();
  noteAttempt(run, { type: 'began', ...who, scheduledAt, worker: thisWorker(), taskToken, at: now() });
  return (how, headline, error) =>
    noteAttempt(run, {
      ...{ type: 'ended', ...who, how, at: now() },
      ...(error === undefined ? {} : { error }),
      ...(headline === undefined ? {} : { headline: headline.slice(0, MOST_WORDS) }),
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

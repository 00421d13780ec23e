import { WorkflowNotFoundError, type Client, type WorkflowExecutionDescription } from '@temporalio/client';
import proto from '@temporalio/proto';
import type { fineTune, FineTuneResult } from '../../workflows/fine-tune.ts';
import type { RunProgress } from '../../workflows/progress.ts';
import { messageOf, TemperError } from '../../host/errors.ts';
import { millisOf } from '../../host/timestamp.ts';
import { rootCause } from '../workflow-error.ts';
import { readHeartbeat, type Heartbeat } from './heartbeat.ts';

/** All that the server and the run's host say about a run now. */
export interface RunSnapshot {
  runName: string;
  /** Temporal's word, such as RUNNING, COMPLETED, FAILED, CANCELLED, TERMINATED, TIMED_OUT. */
  status: string;
  /** ISO times. */
  startedAt: string;
  closedAt: string | null;
  /** Where the run was when a worker was last there to say; null before that. */
  progress: RunProgress | null;
  activity: RunningActivity | null;
  /** What the run waits for, or what has gone wrong on the way, each one line. */
  notices: Notice[];
  /** Once it has ended well; a failed one has `failure`. */
  result: FineTuneResult | null;
  failure: string | null;
}

export interface Notice {
  kind: 'waits' | 'warning';
  text: string;
}

/** The activity that the run is in. */
export interface RunningActivity {
  name: string;
  attempt: number;
  /** Process ID and host of the worker, `PID@HOST`. */
  worker: string | null;
  heartbeat: Heartbeat;
}

/** No worker took a task of the run for so long: it is away. */
const WORKER_AWAY_MS = 5_000;
const ANSWER_TIMEOUT_MS = 5_000;

/** Ask the server about a run; what it can't tell now, as when no worker is there, is as in `before`. */
export async function readSnapshot(client: Client, runName: string, before?: RunSnapshot): Promise<RunSnapshot> {
  const handle = client.workflow.getHandle<typeof fineTune>(runName);
  const soon = () => Date.now() + ANSWER_TIMEOUT_MS;
  const description = await client
    .withDeadline(soon(), () => handle.describe())
    .catch((error: unknown) => {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
      throw new TemperError('ConfigError', `The server knows no run ${runName}; \`npx temper runs\` lists them.`);
    });
  const { status, startTime, closeTime } = description;
  const isRunning = status.name === 'RUNNING';
  const progress = await client.withDeadline(soon(), () => handle.query<RunProgress>('progress')).catch(() => null);
  const end = isRunning ? { result: null, failure: null } : await readEnd(() => handle.result());
  const activity = await readActivity(client, description);
  const known = progress ?? (before?.startedAt === startTime.toISOString() ? before.progress : null);
  return {
    ...{ runName, status: status.name, startedAt: startTime.toISOString(), closedAt: closeTime?.toISOString() ?? null },
    ...{ progress: known, activity: activity?.running ?? null, ...end },
    notices: isRunning ? noticesOf(runName, description, known, activity) : [],
  };
}

async function readEnd(result: () => Promise<FineTuneResult>): Promise<Pick<RunSnapshot, 'result' | 'failure'>> {
  try {
    return { result: await result(), failure: null };
  } catch (error) {
    return { result: null, failure: messageOf(rootCause(error)) };
  }
}

interface PendingActivity {
  running: RunningActivity;
  lastFailure: string | null;
  nextAttemptAt: number | null;
  /** When it was given to the queue, while no worker has taken it. */
  queuedAt: number | null;
  isPaused: boolean;
}

const { PendingActivityState, PendingWorkflowTaskState } = proto.temporal.api.enums.v1;

async function readActivity(
  client: Client,
  { raw }: WorkflowExecutionDescription,
): Promise<PendingActivity | undefined> {
  const pending = raw.pendingActivities?.at(-1);
  if (pending === undefined) return undefined;
  const nextAttemptAt = millisOf(pending.nextAttemptScheduleTime);
  const isQueued =
    pending.state === PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED &&
    (nextAttemptAt === null || nextAttemptAt <= Date.now());
  return {
    running: {
      name: pending.activityType?.name ?? '',
      attempt: pending.attempt ?? 1,
      worker: pending.lastWorkerIdentity || null,
      heartbeat: await readHeartbeat(client, pending.heartbeatDetails?.payloads),
    },
    lastFailure: pending.lastFailure?.message?.split('\n')[0] ?? null,
    nextAttemptAt,
    queuedAt: isQueued ? (nextAttemptAt ?? millisOf(pending.scheduledTime)) : null,
    isPaused: pending.state === PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED,
  };
}

function noticesOf(
  runName: string,
  { raw }: WorkflowExecutionDescription,
  progress: RunProgress | null,
  activity: PendingActivity | undefined,
): Notice[] {
  const notices: Notice[] = [];
  const waits = (text: string) => notices.push({ kind: 'waits', text });
  const isLate = (since: number | null) => since !== null && Date.now() - since > WORKER_AWAY_MS;
  const taskSince = millisOf(raw.pendingWorkflowTask?.originalScheduledTime);
  if (
    isLate(taskSince) &&
    raw.pendingWorkflowTask?.state === PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
  )
    waits('waits for a worker: start `npx temper up`, or `npx temper worker` on the GPU host');
  if (activity !== undefined) {
    const { running, lastFailure, nextAttemptAt, queuedAt, isPaused } = activity;
    const { waitingFor, heldBy } = running.heartbeat;
    if (isLate(queuedAt)) waits(`waits for the worker of its host to take ${running.name}: is it up?`);
    if (isPaused) waits(`${running.name} is paused: temporal activity unpause --workflow-id ${runName} …`);
    if (waitingFor !== undefined) waits(`waits for ${waitingFor}${heldBy ? `, held by ${heldBy.join(', ')}` : ''}`);
    if (nextAttemptAt !== null && nextAttemptAt > Date.now())
      waits(`attempt ${running.attempt} begins in ${Math.ceil((nextAttemptAt - Date.now()) / 1000)} s`);
    if (running.attempt > 1 && lastFailure !== null)
      notices.push({ kind: 'warning', text: `attempt ${running.attempt - 1} failed: ${lastFailure}` });
  }
  const approval = progress?.stages.find(({ state }) => state === 'awaitingApproval');
  if (approval !== undefined)
    waits(
      `waits for approval: temporal workflow update execute --workflow-id ${runName} --name approve --input '{"by":"…","why":"…"}' (or reject)`,
    );
  return notices;
}

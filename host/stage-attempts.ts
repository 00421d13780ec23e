import { appendLine, readLines } from './json-lines.ts';
import { hostname } from 'node:os';
import { identify, isAlive, type ProcessIdentity } from './process-table.ts';
import type { RunDirectory } from './run-directory.ts';

/** A line of `stage-attempts.jsonl`: an attempt of a stage began on a host, or ended. */
export type StageAttempt = {
  stage: string;
  /** Temporal's Run ID. */
  executionId: string;
  attempt: number;
  /** ISO time. */
  at: string;
} & (
  | {
      type: 'began';
      /** ISO time when the workflow asked for the stage. */
      scheduledAt: string;
      worker: ProcessIdentity & { host: string };
      /** In base64: by it the server can be told of the attempt's end. */
      taskToken: string;
    }
  /**
   * `lost`: written by a later worker for one that died. `error`: the name of what failed, where it has one. `headline`: what
   * came of it, or why it failed; records of before have none.
   */
  | { type: 'ended'; how: AttemptEnd | 'lost'; error?: string; headline?: string }
);

export type AttemptEnd = 'done' | 'failed' | 'cancelled';

export type BegunAttempt = Extract<StageAttempt, { type: 'began' }>;

export type EndedAttempt = Extract<StageAttempt, { type: 'ended' }>;

/** Write an attempt's begin or end down; a disk that can't take it is no reason for the stage to fail. */
export function noteAttempt(run: RunDirectory, attempt: StageAttempt): void {
  try {
    appendLine(run.stageAttempts, attempt);
  } catch (error) {
    console.error(`${run.stageAttempts} could not be written: ${String(error)}`);
  }
}

/** This process, as it signs the attempts that it makes. */
export function thisWorker(): BegunAttempt['worker'] {
  const { pid, startTime, bootId } = identify(process.pid) ?? { pid: process.pid, startTime: 0, bootId: '' };
  return { pid, startTime, bootId, host: hostname() };
}

/** The attempts that have not ended and whose worker, on this host, lives no more. */
export async function attemptsOfDeadWorkers(run: RunDirectory): Promise<BegunAttempt[]> {
  const lines = await readLines<StageAttempt>(run.stageAttempts);
  const keyOf = ({ stage, executionId, attempt }: StageAttempt) => `${stage} ${executionId} ${attempt}`;
  const ended = new Set(lines.flatMap((line) => (line.type === 'ended' ? [keyOf(line)] : [])));
  return lines.filter(
    (line): line is BegunAttempt =>
      line.type === 'began' && !ended.has(keyOf(line)) && line.worker.host === hostname() && !isAlive(line.worker),
  );
}

/** The attempts that failed or whose worker died, each with its error's name: WorkerDied, or `other` for one without. */
export function failedAttempts(attempts: StageAttempt[]): (EndedAttempt & { error: string })[] {
  return attempts.flatMap((line) => {
    if (line.type !== 'ended' || (line.how !== 'failed' && line.how !== 'lost')) return [];
    return [{ ...line, error: line.how === 'lost' ? 'WorkerDied' : (line.error ?? 'other') }];
  });
}

/** The attempts of one stage, as they were noted. */
export async function readAttempts(run: RunDirectory, stage: string): Promise<StageAttempt[]> {
  return (await readLines<StageAttempt>(run.stageAttempts)).filter((line) => line.stage === stage);
}

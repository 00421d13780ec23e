import { readLines } from '../json-lines.ts';
import type { RunDirectory } from '../run-directory.ts';
import { isAlive } from '../process-table.ts';
import { attemptsOfDeadWorkers, failedAttempts, type BegunAttempt, type StageAttempt } from '../stage-attempts.ts';
import { readJson } from '../state-file.ts';
import { findTrainer } from '../trainer-process.ts';

/** A stage as the workflow's progress has it. */
export interface ReportStage {
  stage: string;
  state: string;
  /** ISO times; the workflow's `started` is the newest attempt's. */
  started: string | null;
  finished: string | null;
  attempt: number | null;
  /** The stage's main figure, or why it failed or was skipped. */
  headline: string | null;
}

/** What is read of `manifest.json`. */
interface RecordedEnd {
  outcome: string;
  finishedAt: string;
  /** As they stood then; missing in older ones. */
  stages?: ReportStage[];
}

/** How a run stands, as far as its directory tells. */
export interface RunState {
  /** As its manifest says; else `running`, `failed`, or `broken off` when nothing of it lives and nobody wrote its end down. */
  outcome: string;
  /** ISO times. */
  startedAt: string | null;
  finishedAt: string | null;
  stages: ReportStage[];
  /** The stage that ended the run, and why. */
  failure: { stage: string; error: string | undefined; message: string } | undefined;
  /** Attempts that did not get to their end, in their order. */
  setbacks: Setback[];
}

export interface Setback {
  stage: string;
  attempt: number;
  /** ISO time. */
  at: string;
  /** An error's name, or WorkerDied. */
  error: string;
  message: string | undefined;
}

/** Read it; files that are no JSON throw. */
export async function readRunState(run: RunDirectory): Promise<RunState> {
  const record = await readJson<{ startedAt?: string }>(run.run);
  const manifest = await readJson<RecordedEnd>(run.manifest);
  const attempts = latest(await readLines<StageAttempt>(run.stageAttempts));
  const startedAt = record?.startedAt ?? attempts[0]?.at ?? null;
  const since = [record?.startedAt, began(attempts)].filter((at) => at !== undefined).sort()[0] ?? '';
  const isRecorded = manifest !== undefined && manifest.finishedAt >= since;
  const stages = sinceFirstAttempt((isRecorded ? manifest.stages : undefined) ?? stagesOf(attempts), attempts);
  const outcome = isRecorded ? manifest.outcome : await unrecordedOutcome(run, attempts);
  return {
    ...{ outcome, startedAt, stages, setbacks: setbacksIn(attempts) },
    finishedAt: isRecorded ? manifest.finishedAt : null,
    failure: outcome === 'failed' ? failureIn(stages, attempts) : undefined,
  };
}

/** The attempts of the newest workflow execution: a run may have been started more than once under its name. */
function latest(attempts: StageAttempt[]): StageAttempt[] {
  const newest = attempts.findLast(({ type }) => type === 'began')?.executionId;
  return attempts.filter(({ executionId }) => executionId === newest);
}

function began(attempts: StageAttempt[]): string | undefined {
  return attempts.find(({ type }) => type === 'began')?.at;
}

async function unrecordedOutcome(run: RunDirectory, attempts: StageAttempt[]): Promise<string> {
  if ((await findTrainer(run)) !== undefined) return 'running';
  const last = attempts.at(-1);
  if (last === undefined) return 'broken off';
  if (last.type === 'ended') return last.how === 'done' ? stateBetweenStages(attempts) : last.how;
  const dead = await attemptsOfDeadWorkers(run);
  return dead.some(({ taskToken }) => taskToken === last.taskToken) ? 'broken off' : 'running';
}

/** Between two stages only the life of the worker tells whether another one comes. */
function stateBetweenStages(attempts: StageAttempt[]): string {
  const last = attempts.findLast((attempt): attempt is BegunAttempt => attempt.type === 'began');
  return last !== undefined && isAlive(last.worker) ? 'running' : 'broken off';
}

/** A stage has taken the time of all its attempts, and what was between them. */
function sinceFirstAttempt(stages: ReportStage[], attempts: StageAttempt[]): ReportStage[] {
  return stages.map((each) => {
    const first = attempts.find(({ type, stage }) => type === 'began' && stage === each.stage);
    return each.started === null ? each : { ...each, started: first?.at ?? each.started };
  });
}

/** The stages so far, by their newest attempts. */
function stagesOf(attempts: StageAttempt[]): ReportStage[] {
  const stages = new Map<string, ReportStage>();
  for (const line of attempts) {
    const before = stages.get(line.stage);
    if (line.type === 'began')
      stages.set(line.stage, {
        ...{ stage: line.stage, state: 'running', started: line.at, finished: null },
        ...{ attempt: line.attempt, headline: null },
      });
    else if (before?.attempt === line.attempt)
      stages.set(line.stage, {
        ...before,
        ...{ state: line.how, finished: line.at, headline: line.headline ?? line.error ?? null },
      });
  }
  return [...stages.values()];
}

function failureIn(stages: ReportStage[], attempts: StageAttempt[]): RunState['failure'] {
  const failed = stages.findLast(({ state }) => state === 'failed');
  if (failed === undefined) return undefined;
  const ended = attempts.findLast((line) => line.type === 'ended' && line.stage === failed.stage);
  const error = ended?.type === 'ended' ? ended.error : undefined;
  return { stage: failed.stage, error, message: failed.headline ?? error ?? 'It left no word of why.' };
}

function setbacksIn(attempts: StageAttempt[]): Setback[] {
  return failedAttempts(attempts).map(({ stage, attempt, at, error, headline }) => {
    return { stage, attempt, at, error, message: headline };
  });
}

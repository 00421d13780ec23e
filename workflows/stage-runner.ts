import {
  ActivityFailure,
  ApplicationFailure,
  isCancellation,
  TimeoutFailure,
  type ActivityFunctionWithOptions,
  type ActivityOptions,
} from '@temporalio/workflow';
import type { Activities } from '../activities/index.ts';
import { describeHosts } from './placement.ts';
import type { ProgressBoard, StageName } from './progress.ts';
import { stagesOn, type HostOptions, type Stages } from './stages.ts';
import { Visibility } from './visibility.ts';

type InputOf<S extends keyof Stages> = Parameters<Activities[S]>[0];
type ResultOf<S extends keyof Stages> = Awaited<ReturnType<Activities[S]>>;

/** What the Temporal UI shows of an activity that has no summary of its own. */
const summaries: Partial<Record<keyof Stages, string>> = {
  detectChange: 'Compare rows and config with those of the last run',
  requestStop: 'Ask the trainer to stop after its step',
  discardCandidate: 'Take the candidate down; the champion stays',
  recordRun: 'Write manifest and report',
  planRollback: 'Find the champion before',
  applyRollback: 'Put the champion before back into service',
  planCleanRuns: 'See which runs may go',
  applyCleanRuns: 'Free the disk of them',
};

/** How long a host may be away before its config says so. */
const AWAY_HOURS = 72;

/**
 * Runs a run's stages on its host, and keeps the board and the run's search attributes true about them. When the host stays away
 * for too long the run goes on on another one that has the same run directory, on shared storage.
 */
export class StageRunner {
  readonly board: ProgressBoard;
  visibility = new Visibility(false);
  /** null for runs that were started before hosts had queues of their own. */
  #host: HostOptions | null = null;
  #stages: Stages = stagesOn(null);

  constructor(board: ProgressBoard) {
    this.board = board;
  }

  /** Where stages run; null before that is known. */
  get hostName(): string | null {
    return this.#host?.name ?? null;
  }

  /** From now on stages run on this host. */
  settle(name: string, awayHours = AWAY_HOURS): void {
    this.#host = { name, awayHours };
    this.#stages = stagesOn(this.#host);
  }

  /** For how long the host may be away from now on. */
  allowAway(awayHours: number): void {
    if (this.#host !== null) this.settle(this.#host.name, awayHours);
  }

  async run<S extends StageName>(
    stage: S,
    summary: string,
    input: InputOf<S>,
    options: ActivityOptions = {},
  ): Promise<ResultOf<S>> {
    this.board.set(stage, { state: 'scheduled', started: now() });
    this.visibility.begins(stage);
    try {
      const result = await this.call(stage, input, { ...options, summary });
      const { headline, attempt = 1 } = result as { headline: string; attempt?: number };
      this.board.set(stage, { state: 'done', finished: now(), attempt, headline });
      return result;
    } catch (error) {
      const state = isCancellation(error) ? 'cancelled' : 'failed';
      this.board.set(stage, { state, finished: now(), headline: reasonOf(error) });
      throw error;
    }
  }

  /** Call an activity where the run is, be it a stage or not. */
  async call<S extends keyof Stages>(name: S, input: InputOf<S>, options: ActivityOptions = {}): Promise<ResultOf<S>> {
    for (;;) {
      const activity = this.#stages[name] as ActivityFunctionWithOptions<(input: InputOf<S>) => Promise<ResultOf<S>>>;
      try {
        return await activity.executeWithOptions({ summary: summaries[name], ...options }, [input]);
      } catch (error) {
        if (!isHostAway(error) || this.#host === null) throw error;
        this.settle(await this.#otherHost(this.#host, name), this.#host.awayHours);
      }
    }
  }

  skip(stage: StageName, why: string): null {
    this.board.set(stage, { state: 'skipped', headline: why });
    return null;
  }

  /** Skip all stages that have not begun. */
  skipRest(why: string): void {
    for (const { stage, state } of this.board.toJSON().stages) if (state === 'waiting') this.skip(stage, why);
  }

  /** A host that sees the run's directory; HostError, which says what waits on the lost one, when none does. */
  async #otherHost({ name, awayHours }: HostOptions, activity: string): Promise<string> {
    const { runName } = this.board.toJSON();
    const others = (await describeHosts({ runName })).filter(({ host }) => host !== name);
    const [other] = others.filter(({ holdsRun }) => holdsRun);
    if (other !== undefined) return other.host;
    const done = this.board.toJSON().stages.filter(({ state }) => state === 'done');
    const kept = done.map(({ stage, headline }) => `\n  ${stage}: ${headline ?? 'done'}`).join('');
    const training = this.board.get('trainModel');
    const trained =
      activity === 'trainModel' && training.attempt !== null
        ? `\n  trainModel: begun at ${training.started}, with its checkpoints`
        : '';
    throw ApplicationFailure.nonRetryable(
      `Host ${name} has not answered for ${awayHours} h, and no other host sees the run's directory. When it is back, start the run again under the same name: it goes on from there. Started with another "host", it begins anew and this is lost:${kept}${trained}`,
      'HostError',
    );
  }
}

export function now(): string {
  return new Date().toISOString();
}

function isHostAway(error: unknown): boolean {
  return (
    error instanceof ActivityFailure &&
    error.cause instanceof TimeoutFailure &&
    error.cause.timeoutType === 'SCHEDULE_TO_START'
  );
}

/** What failed, without the activity around it. */
export function reasonOf(error: unknown): string {
  const cause = error instanceof ActivityFailure && error.cause !== undefined ? error.cause : error;
  return cause instanceof Error ? cause.message : String(cause);
}

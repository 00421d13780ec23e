import type { StageName } from '../../workflows/progress.ts';
import { durationText } from '../../host/duration.ts';
import { heartbeatText } from './heartbeat.ts';
import type { RunSnapshot } from './run-snapshot.ts';

/** Tells what has changed from one snapshot of a run to the next, for logs and pipes. */
export class RunNews {
  readonly #everyMs: number;
  readonly #states = new Map<StageName, string>();
  readonly #notices = new Set<string>();
  #lastText = '';
  #lastTextAt = -Infinity;

  /** What a stage says of itself is told at most so often. */
  constructor(everyMs: number) {
    this.#everyMs = everyMs;
  }

  /** Lines for what is new since the last call. */
  tell(snapshot: RunSnapshot, now = Date.now()): string[] {
    return [...this.#stageLines(snapshot), ...this.#noticeLines(snapshot), ...this.#activityLines(snapshot, now)];
  }

  #stageLines({ progress }: RunSnapshot): string[] {
    return (progress?.stages ?? []).flatMap(({ stage, state, started, finished, attempt, headline }) => {
      if (state === 'waiting' || state === 'scheduled' || state === 'awaitingApproval') return [];
      const told = `${state} ${attempt ?? ''} ${started}`;
      if (this.#states.get(stage) === told) return [];
      this.#states.set(stage, told);
      this.#lastTextAt = -Infinity;
      if (state === 'running')
        return [`${stage.padEnd(17)} ${attempt !== null && attempt > 1 ? `attempt ${attempt} ` : ''}…`];
      const seconds =
        started === null || finished === null ? '' : durationText((Date.parse(finished) - Date.parse(started)) / 1000);
      return [`${stage.padEnd(17)} ${state.padEnd(9)} ${seconds.padStart(10)}  ${headline ?? ''}`];
    });
  }

  #noticeLines({ notices }: RunSnapshot): string[] {
    // A countdown is no news.
    const fresh = notices.filter(({ text }) => !this.#notices.has(text.replace(/\d+ s$/, '')));
    for (const { text } of fresh) this.#notices.add(text.replace(/\d+ s$/, ''));
    return fresh.map(({ kind, text }) => `${' '.repeat(17)} ${kind === 'warning' ? '! ' : ''}${text}`);
  }

  #activityLines({ activity, closedAt }: RunSnapshot, now: number): string[] {
    const text = activity === null || closedAt !== null ? '' : heartbeatText(activity.heartbeat);
    if (text === '' || text === this.#lastText || now - this.#lastTextAt < this.#everyMs) return [];
    this.#lastText = text;
    this.#lastTextAt = now;
    return [`${' '.repeat(17)} ${text}`];
  }
}

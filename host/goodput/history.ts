import type { StageAttempt } from '../stage-attempts.ts';
import type { TrainingEvent } from '../training-events.ts';

/** What becomes of a trainer. */
export type TrainerNote = { pid: number } & (
  { type: 'started'; attempt: number } | { type: 'ended'; how: string } | { type: 'hung'; silentSeconds: number }
);

/**
 * A line of `train/trainers.jsonl`: `started` and `ended` by `trainer/keeper.py`; `hung`, and then `ended` too, by who follows
 * the trainer. `at` is an ISO time.
 */
export type TrainerLine = TrainerNote & { at: string };

/** All that is known of a training stage, as it lies in the run directory. */
export interface TrainingHistory {
  /** Of the stage trainModel. */
  attempts: StageAttempt[];
  trainers: TrainerLine[];
  events: TrainingEvent[];
  /** Seconds since the epoch while its trainer lives, undefined when none does: then the last sign of it is the end. */
  now: number | undefined;
}

/** One trainer process. Times are in seconds since the epoch. */
export interface TrainerLife {
  pid: number;
  startedAt: number;
  endedAt: number;
  /** Whether it lives at the history's end. */
  isAlive: boolean;
  /** When it was found hung, and since when it had been silent. */
  hung: { from: number; to: number } | undefined;
  events: TrainingEvent[];
}

/** The trainers in the order of their starts, with what each told; `median` is the training's usual step in seconds. */
export function livesOf({ attempts, trainers, events, now }: TrainingHistory, median: number): TrainerLife[] {
  const starts = startsOf(trainers, events);
  const boundaries = [...starts.map((start) => start.at), ...attempts.flatMap(beganAt)];
  return starts.map(({ pid, at: startedAt }, index) => {
    const next = starts[index + 1]?.at ?? Infinity;
    const own = events.filter(({ time }) => time >= startedAt && time < next);
    const lines = trainers.filter((line) => line.pid === pid && isWithin(seconds(line.at), startedAt, next));
    const hungAt = whenOf(lines, 'hung');
    const isAlive = now !== undefined && index === starts.length - 1;
    const lastSign = Math.max(startedAt, own.at(-1)?.time ?? 0, hungAt ?? 0);
    // Where nobody saw it end, it was at its step for no longer than a step takes.
    const cutOff = isTraining(own) && hungAt === undefined ? median : 0;
    const unseen = Math.min(lastSign + cutOff, ...boundaries.filter((at) => at > lastSign));
    const endedAt = isAlive ? now : Math.max(lastSign, whenOf(lines, 'ended') ?? unseen);
    const hung = hungAt === undefined ? undefined : { from: lastBefore(own, hungAt) ?? startedAt, to: endedAt };
    return { pid, startedAt, endedAt, isAlive, hung, events: own };
  });
}

/** Seconds since the epoch of an ISO time. */
export function seconds(iso: string): number {
  return Date.parse(iso) / 1000;
}

/** When trainers started, by their keepers; for one without a keeper, as it told itself. */
function startsOf(trainers: TrainerLine[], events: TrainingEvent[]): { pid: number; at: number }[] {
  const kept = trainers.flatMap((line) => (line.type === 'started' ? [{ pid: line.pid, at: seconds(line.at) }] : []));
  const told = events.flatMap((event) => (event.type === 'started' ? [{ pid: event.pid, at: event.time }] : []));
  const unkept = told.filter((start, index) => {
    const before = told[index - 1]?.at ?? -Infinity;
    return !kept.some(({ pid, at }) => pid === start.pid && at > before && at <= start.at);
  });
  return [...kept, ...unkept].sort((a, b) => a.at - b.at);
}

function isWithin(at: number, from: number, to: number): boolean {
  return at >= from && at <= to;
}

function whenOf(lines: TrainerLine[], type: TrainerLine['type']): number | undefined {
  const line = lines.find((each) => each.type === type);
  return line && seconds(line.at);
}

function beganAt(attempt: StageAttempt): number[] {
  return attempt.type === 'began' ? [seconds(attempt.at)] : [];
}

function lastBefore(events: TrainingEvent[], at: number): number | undefined {
  return events.findLast(({ time }) => time <= at)?.time;
}

/** Whether the last that a trainer told was between two steps of its training. */
function isTraining(events: TrainingEvent[]): boolean {
  const phase = events.findLast((event) => event.type === 'phase');
  return phase?.type === 'phase' && phase.phase === 'training' && !events.some(isLastWord);
}

function isLastWord({ type }: TrainingEvent): boolean {
  return type === 'finished' || type === 'failed' || type === 'interrupted';
}

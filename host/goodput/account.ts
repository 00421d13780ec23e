import type { TrainingEvent } from '../training-events.ts';
import type { TrainerLife } from './history.ts';
import { median } from '../median.ts';
import type { Doing, Segment, Timeline } from './timeline.ts';

/**
 * Where the time of a training stage goes; each second goes to one of them. `productive` are the steps that are in the final
 * weights, `repeated` those that had to be made again or were cut off. `startUp` is all that comes before a first step, and
 * what that step takes beyond the usual; tokenizing counts as `preprocessing`, reading rows that are tokenized too. `saving`
 * also has what comes after the last step. `hang` is the silence until a trainer is stopped for it. While `idle` no trainer ran.
 */
export const causes = [
  'productive',
  'queue',
  'startUp',
  'preprocessing',
  'repeated',
  'evaluation',
  'saving',
  'hang',
  'idle',
] as const;

export type Cause = (typeof causes)[number];

export interface Account {
  /** Seconds by cause; they add up to `wallSeconds`. */
  seconds: Record<Cause, number>;
  /** From the stage being scheduled to its end. */
  wallSeconds: number;
  /** Productive share of the wall time; null of no time at all. */
  goodput: number | null;
  /** The steps that count, in their order. */
  steps: CountedStep[];
  /** Steps made again or lost. */
  repeatedSteps: number;
}

export interface CountedStep {
  event: Extract<TrainingEvent, { type: 'step' }>;
  trainer: TrainerLife;
  /** Without what a first step takes beyond the usual. */
  seconds: number;
}

const causeOf: Record<Exclude<Doing, 'step'>, Cause> = {
  queue: 'queue',
  none: 'idle',
  beforeTrainer: 'startUp',
  process: 'startUp',
  importing: 'startUp',
  parsing: 'startUp',
  preprocessing: 'preprocessing',
  loading: 'startUp',
  evaluating: 'evaluation',
  saving: 'saving',
  finishing: 'saving',
  hang: 'hang',
};

/** One optimizer step as one trainer made it. */
interface MadeStep {
  trainer: number;
  step: number;
  seconds: number;
  /** How much of it is start-up. */
  excess: number;
}

/** Give each second of a timeline to a cause. */
export function accountOf(timeline: Timeline): Account {
  const seconds = Object.fromEntries(causes.map((cause) => [cause, 0])) as Record<Cause, number>;
  for (const { doing, from, to } of timeline.segments) if (doing !== 'step') seconds[causeOf[doing]] += to - from;
  for (const segment of timeline.segments)
    if (isUnfinished(segment)) seconds[isAtHand(segment, timeline) ? 'productive' : 'repeated'] += lengthOf(segment);

  const made = madeSteps(timeline.segments);
  const lastKept = timeline.trainers.map((_, index) => lastStepKept(timeline.trainers, index));
  const told = timeline.trainers.map(stepsOf);
  const steps: CountedStep[] = [];
  for (const each of made) {
    seconds.startUp += each.excess;
    const counts = each.step <= lastKept[each.trainer]!;
    seconds[counts ? 'productive' : 'repeated'] += each.seconds - each.excess;
    const trainer = timeline.trainers[each.trainer]!;
    const event = told[each.trainer]!.get(each.step);
    if (counts && event !== undefined) steps.push({ event, trainer, seconds: each.seconds - each.excess });
  }
  const wallSeconds = timeline.segments.reduce((sum, segment) => sum + lengthOf(segment), 0);
  return {
    ...{ seconds, wallSeconds, goodput: wallSeconds > 0 ? seconds.productive / wallSeconds : null },
    ...{ steps, repeatedSteps: made.length - steps.length },
  };
}

function stepsOf({ events }: TrainerLife): Map<number, CountedStep['event']> {
  const steps = events.filter((event) => event.type === 'step');
  return new Map(steps.reverse().map((event) => [event.step, event])); // the first of a step's events counts
}

/** The steps that were made, with a trainer's first one cut to the usual length: that of its others, else of all others. */
function madeSteps(segments: Segment[]): MadeStep[] {
  const made = new Map<string, MadeStep>();
  for (const segment of segments) {
    const { trainer, step } = segment;
    if (trainer === null || step === undefined) continue;
    const key = `${trainer} ${step}`;
    const before = made.get(key) ?? { trainer, step, seconds: 0, excess: 0 };
    made.set(key, { ...before, seconds: before.seconds + lengthOf(segment) });
  }
  const all = [...made.values()];
  const firstOf = new Map([...all].reverse().map((each) => [each.trainer, each]));
  const firsts = [...firstOf.values()];
  const others = all.filter((each) => firstOf.get(each.trainer) !== each);
  for (const first of firsts) {
    const own = others.filter(({ trainer }) => trainer === first.trainer);
    const usual = median((own.length > 0 ? own : others).map((each) => each.seconds));
    first.excess = usual === undefined ? 0 : Math.max(0, first.seconds - usual);
  }
  return all;
}

/**
 * The last of a trainer's steps that counts: those up to where every later trainer took the training up. Once no trainer lives
 * and the training did not come to its end, only what is in a checkpoint is left.
 */
function lastStepKept(trainers: TrainerLife[], index: number): number {
  const resumedAt = trainers.slice(index + 1).flatMap(({ events }) => started(events)?.resumedAtStep ?? []);
  const isOpenEnded = trainers.some(({ isAlive }) => isAlive) || hasFinished(trainers);
  return Math.min(...resumedAt, isOpenEnded ? Infinity : lastCheckpoint(trainers));
}

function hasFinished(trainers: TrainerLife[]): boolean {
  const started = trainers.findLastIndex(({ events }) => events.some(({ type }) => type === 'started'));
  return trainers.slice(Math.max(0, started)).some(({ events }) => events.some(({ type }) => type === 'finished'));
}

/** The step of the newest checkpoint that the last trainer made or was resumed from. */
function lastCheckpoint(trainers: TrainerLife[]): number {
  const last = trainers.findLast(({ events }) => started(events) !== undefined)?.events ?? [];
  const made = last.flatMap((event) => (event.type === 'checkpoint' ? [event.atStep] : []));
  return Math.max(started(last)?.resumedAtStep ?? 0, ...made);
}

function started(events: TrainingEvent[]): Extract<TrainingEvent, { type: 'started' }> | undefined {
  const event = events.find(({ type }) => type === 'started');
  return event?.type === 'started' ? event : undefined;
}

function isUnfinished({ doing, step }: Segment): boolean {
  return doing === 'step' && step === undefined;
}

/** Whether a step without an end is the one that a living trainer makes. */
function isAtHand({ trainer }: Segment, { trainers }: Timeline): boolean {
  return trainer !== null && trainers[trainer]?.isAlive === true;
}

function lengthOf({ from, to }: Segment): number {
  return to - from;
}

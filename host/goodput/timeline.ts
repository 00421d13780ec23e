import type { StageAttempt } from '../stage-attempts.ts';
import { usualStepSeconds, type TrainingEvent } from '../training-events.ts';
import { livesOf, seconds, type TrainerLife, type TrainingHistory } from './history.ts';

/** What the training stage was doing; `none` while no trainer ran. */
export type Doing =
  | 'queue'
  | 'none'
  // of a start, in this order
  | 'beforeTrainer'
  | 'process'
  | 'importing'
  | 'parsing'
  | 'preprocessing'
  | 'loading'
  | 'step'
  // of a training
  | 'evaluating'
  | 'saving'
  | 'finishing'
  | 'hang';

/** From one moment to another, in seconds since the epoch. */
export interface Segment {
  from: number;
  to: number;
  doing: Doing;
  /** Which of the timeline's trainers lived; null for none. */
  trainer: number | null;
  /** The optimizer step that was made; undefined for one that was not brought to its end. */
  step?: number;
}

/** A training stage from being scheduled to its end, without gaps or overlaps within an execution. */
export interface Timeline {
  segments: Segment[];
  trainers: TrainerLife[];
}

interface Mark {
  at: number;
  /** Which of several marks of one moment is first. */
  order: number;
  apply: (sweep: Sweep) => void;
}

/** Lay out what happened when. Time between a workflow that was ended from outside and the next start of its run is left out. */
export function timelineOf(history: TrainingHistory): Timeline {
  const trainers = livesOf(history, usualStepSeconds(history.events) ?? 0);
  const sweep = new Sweep();
  const marks = [...attemptMarks(history.attempts, trainers), ...trainers.flatMap(trainerMarks)];
  for (const mark of marks.sort((a, b) => a.at - b.at || a.order - b.order)) {
    sweep.goTo(mark.at);
    mark.apply(sweep);
  }
  return { segments: sweep.segments, trainers };
}

class Sweep {
  readonly segments: Segment[] = [];
  #at: number | undefined;
  /** When the newest attempt began. */
  #beganAt: number | undefined;
  /** What is done where no trainer lives. */
  #without: Doing = 'none';
  #trainer: number | null = null;
  #phase: Doing = 'process';
  #lastStep: number | undefined;
  /** The pieces of the step at hand. */
  #open: Segment[] = [];
  #hasFinished = false;

  /** Let time pass; a clock that was set back stands still. */
  goTo(at: number): void {
    const from = (this.#at ??= at);
    if (at <= from) return;
    this.#at = at;
    const doing = this.#trainer === null ? this.#without : this.#phase;
    const segment: Segment = { from, to: at, doing, trainer: this.#trainer };
    this.segments.push(segment);
    if (doing === 'step') this.#open.push(segment);
  }

  scheduled(): void {
    this.#forgetIdleTail();
    this.#without = 'queue';
  }

  began(leadsToTrainer: boolean): void {
    this.#beganAt = this.#at;
    this.#without = this.#hasFinished ? 'finishing' : leadsToTrainer ? 'beforeTrainer' : 'none';
  }

  ended(): void {
    this.#without = 'none';
  }

  trainerStarted(index: number): void {
    this.#trainer = index;
    this.#phase = 'process';
    this.#lastStep = undefined;
    this.#open = [];
  }

  trainerEnded(index: number): void {
    if (this.#trainer !== index) return;
    this.#trainer = null;
    this.#open = [];
    if (this.#without === 'queue' || this.#beganAt === this.#at) return;
    this.#without = this.#hasFinished ? 'finishing' : 'none';
  }

  hung(): void {
    this.#phase = 'hang';
    this.#open = [];
  }

  told(event: TrainingEvent): void {
    if (event.type === 'started') this.#hasFinished = false;
    if (event.type === 'finished') this.#hasFinished = true;
    if (event.type === 'step') this.#closeStep((this.#lastStep = event.step));
    if (event.type !== 'phase') return;
    this.#closeStep(this.#lastStep); // what passes between a step's event and the next phase belongs to the step
    this.#phase = event.phase === 'training' ? 'step' : event.phase;
  }

  #closeStep(step: number | undefined): void {
    if (step !== undefined) for (const segment of this.#open) segment.step = step;
    this.#open = [];
  }

  /** Nobody wrote down when a workflow was ended from outside: its last sign of life is taken for its end. */
  #forgetIdleTail(): void {
    const isTail = ({ doing, trainer }: Segment) => trainer === null && (doing === 'none' || doing === 'finishing');
    while (this.segments.length > 0 && isTail(this.segments.at(-1)!)) this.segments.pop();
  }
}

function attemptMarks(attempts: StageAttempt[], trainers: TrainerLife[]): Mark[] {
  const marks: Mark[] = [];
  const seen = new Set<string>();
  let newest: StageAttempt | undefined;
  for (const attempt of attempts) {
    const at = seconds(attempt.at);
    if (attempt.type === 'ended') {
      if (attempt.how !== 'lost' && isSame(attempt, newest))
        marks.push({ at, order: 4, apply: (sweep) => sweep.ended() });
      continue;
    }
    newest = attempt;
    if (!seen.has(attempt.executionId)) {
      const scheduledAt = Math.min(at, seconds(attempt.scheduledAt));
      marks.push({ at: scheduledAt, order: 0, apply: (sweep) => sweep.scheduled() });
    }
    seen.add(attempt.executionId);
    const leads = leadsToTrainer(attempt, attempts, trainers);
    marks.push({ at, order: 1, apply: (sweep) => sweep.began(leads) });
  }
  return marks;
}

/** Whether an attempt came to start a trainer, or at least to an end of its own: else its worker died with it at once. */
function leadsToTrainer(attempt: StageAttempt, attempts: StageAttempt[], trainers: TrainerLife[]): boolean {
  const from = seconds(attempt.at);
  const next = attempts.find((each) => each.type === 'began' && seconds(each.at) > from);
  const until = next === undefined ? Infinity : seconds(next.at);
  const ended = attempts.some((each) => each.type === 'ended' && each.how !== 'lost' && isSame(each, attempt));
  return ended || trainers.some(({ startedAt }) => startedAt >= from && startedAt < until);
}

function isSame(one: StageAttempt, other: StageAttempt | undefined): boolean {
  return one.executionId === other?.executionId && one.attempt === other.attempt;
}

function trainerMarks(life: TrainerLife, index: number): Mark[] {
  const { startedAt, endedAt, hung, events } = life;
  return [
    { at: startedAt, order: 2, apply: (sweep) => sweep.trainerStarted(index) },
    ...events.map((event): Mark => ({ at: event.time, order: 3, apply: (sweep) => sweep.told(event) })),
    ...(hung === undefined ? [] : [{ at: hung.from, order: 3, apply: (sweep: Sweep) => sweep.hung() }]),
    { at: endedAt, order: 5, apply: (sweep) => sweep.trainerEnded(index) },
  ];
}

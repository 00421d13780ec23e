import type { TrainerLife } from './history.ts';
import type { Doing, Timeline } from './timeline.ts';

/** What a start is made of, in this order. */
export const startUpParts = [
  'waiting',
  'beforeTrainer',
  'process',
  'importing',
  'parsing',
  'preprocessing',
  'loading',
  'firstStep',
  'other',
] as const;

export type StartUpPart = (typeof startUpParts)[number];

/** How a trainer came to its first step: from the attempt's begin, or from the death of the trainer before. */
export interface StartUp {
  /** The checkpoint's step that it went on from; 0 for a start from the base. */
  resumedAtStep: number;
  isResume: boolean;
  /** Until the first step was done; null when it never came to one. */
  seconds: number | null;
  /** Seconds; they add up to `seconds`, or to how far it came. */
  parts: Record<StartUpPart, number>;
}

/** The starts of a training's trainers, in their order. */
export function startUpsOf({ segments, trainers }: Timeline): StartUp[] {
  return trainers.map((trainer, index) => {
    const before = trainers[index - 1];
    const began = segments.find(({ doing, to }) => doing === 'beforeTrainer' && to === trainer.startedAt)?.from;
    const from = before?.endedAt ?? began ?? trainer.startedAt;
    const firstStep = trainer.events.find(({ type }) => type === 'step')?.time;
    const until = firstStep ?? trainer.endedAt;
    const parts = Object.fromEntries(startUpParts.map((part) => [part, 0])) as Record<StartUpPart, number>;
    for (const segment of segments) {
      const seconds = Math.min(until, segment.to) - Math.max(from, segment.from);
      if (seconds > 0) parts[partOf(segment.doing)] += seconds;
    }
    return {
      resumedAtStep: resumedAtStep(trainer),
      isResume: index > 0,
      seconds: firstStep === undefined ? null : Object.values(parts).reduce((sum, seconds) => sum + seconds, 0),
      parts,
    };
  });
}

function resumedAtStep({ events }: TrainerLife): number {
  const event = events.find(({ type }) => type === 'started');
  return event?.type === 'started' ? event.resumedAtStep : 0;
}

function partOf(doing: Doing): StartUpPart {
  switch (doing) {
    case 'queue':
    case 'none':
      return 'waiting';
    case 'step':
      return 'firstStep';
    case 'evaluating':
    case 'saving':
    case 'finishing':
    case 'hang':
      return 'other';
    default:
      return doing;
  }
}

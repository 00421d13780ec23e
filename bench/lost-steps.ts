import type { TrainingEvent } from '../host/training-events.ts';

/** For each time that a training was taken up again: how many of its steps have to be made once more. */
export function lostSteps(events: TrainingEvent[]): number[] {
  const lost: number[] = [];
  let step: number | undefined;
  for (const event of events) {
    if (event.type === 'step') step = event.step;
    if (event.type !== 'started') continue;
    if (step !== undefined) lost.push(step - event.resumedAtStep);
    step = event.resumedAtStep;
  }
  return lost;
}

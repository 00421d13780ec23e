import type { TrainingEvent } from '../training-events.ts';
import type { Point, TrainingChart } from './section.ts';

/** So many points of a line are enough for a screen, also zoomed in some. */
const MOST_POINTS = 2_000;
const MOST_MARKS = 200;

export interface TrainingCurve extends TrainingChart {
  /** Steps that count, and how many it is to have in all. */
  steps: number;
  maxSteps: number;
  /** Of them, those whose loss is no finite number. */
  withoutLoss: number;
  /** Steps that resumes threw away. */
  discardedSteps: number;
  /** The smoothed line is an exponential mean over about so many steps. */
  smoothedOver: number;
}

interface Made {
  loss: number | null;
  learningRate: number | null;
}

/** The lines of a training, thinned to what a screen can show; each keeps the highest and lowest value of every stretch. */
export function trainingCurve(events: TrainingEvent[]): TrainingCurve {
  const { steps, evaluations, checkpoints, discarded, resumes } = replay(events);
  const ordered = [...steps].sort(([a], [b]) => a - b);
  const loss = ordered.map(([step, made]): Point => [step, made.loss]);
  const smoothedOver = Math.max(5, Math.round(loss.length / 25));
  const budget = Math.max(10, Math.floor(MOST_POINTS / 2 / Math.max(1, discarded.length)));
  return {
    loss: rounded(thin(loss, MOST_POINTS)),
    smoothed: rounded(every(smooth(loss, smoothedOver), MOST_POINTS / 2)),
    evalLoss: rounded(thin([...evaluations].sort(byStep), MOST_POINTS / 2)),
    learningRate: rounded(
      every(
        ordered.map(([step, made]): Point => [step, made.learningRate]),
        MOST_POINTS / 2,
      ),
    ),
    discarded: discarded.map((points) => rounded(thin(points.sort(byStep), budget))),
    resumes: resumes.slice(-MOST_MARKS),
    checkpoints: every([...checkpoints], MOST_MARKS).sort((a, b) => a - b),
    steps: ordered.length,
    maxSteps: events.findLast((event) => event.type === 'step')?.maxSteps ?? ordered.length,
    withoutLoss: loss.filter(([, value]) => value === null).length,
    discardedSteps: discarded.reduce((sum, points) => sum + points.length, 0),
    smoothedOver,
  };
}

/** Go through the events as they came; a resume throws away what was made past its checkpoint. */
function replay(events: TrainingEvent[]) {
  const steps = new Map<number, Made>();
  const evaluations = new Map<number, number | null>();
  const checkpoints = new Set<number>();
  const discarded: Point[][] = [];
  const resumes: number[] = [];
  for (const event of events) {
    if (event.type === 'step')
      steps.set(event.step, { loss: finite(event.loss), learningRate: finite(event.learningRate) });
    if (event.type === 'evaluation') evaluations.set(event.atStep, finite(event.evalLoss));
    if (event.type === 'checkpoint') checkpoints.add(event.atStep);
    if (event.type !== 'started') continue;
    const lost = [...steps].filter(([step]) => step > event.resumedAtStep);
    if (lost.length > 0) discarded.push(lost.map(([step, { loss }]) => [step, loss]));
    for (const [step] of lost) steps.delete(step);
    for (const made of [evaluations, checkpoints])
      for (const step of made.keys()) if (step > event.resumedAtStep) made.delete(step);
    if (event.resumedAtStep > 0) resumes.push(event.resumedAtStep);
  }
  return { steps, evaluations, checkpoints, discarded, resumes };
}

/** In events there is null for what JSON has no number for, and nothing where the trainer did not know. */
function finite(value: number | null | undefined): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

/** The lowest and highest point of each of `most` / 2 stretches, and every gap's beginning. */
function thin(points: Point[], most: number): Point[] {
  if (points.length <= most) return points;
  const stretch = points.length / Math.floor(most / 2);
  const kept: Point[] = [];
  for (let from = 0; from < points.length; from += stretch) {
    const part = points.slice(Math.floor(from), Math.floor(from + stretch));
    let [low, high, gap]: (Point | undefined)[] = [undefined, undefined, undefined];
    for (const point of part) {
      const [, value] = point;
      if (value === null) gap ??= point;
      else if (low === undefined || value < (low[1] ?? 0)) low = point;
      if (value !== null && (high === undefined || value > (high[1] ?? 0))) high = point;
    }
    kept.push(...[...new Set([low, high, gap])].filter((point) => point !== undefined).sort(byStep));
  }
  return kept;
}

/** At most so many of a smooth list, evenly, with the first and the last. */
function every<T>(points: T[], most: number): T[] {
  if (points.length <= most) return points;
  const stride = (points.length - 1) / (most - 1);
  return Array.from({ length: most }, (_, index) => points[Math.round(index * stride)] as T);
}

/** Exponential mean, its beginning corrected for (as Adam's moments are); gaps are passed over. */
function smooth(points: Point[], over: number): Point[] {
  const keep = 1 - 2 / (over + 1);
  let [sum, weight] = [0, 0];
  return points.flatMap(([step, value]): Point[] => {
    if (value === null) return [];
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return [[step, sum / weight]];
  });
}

function rounded(points: Point[]): Point[] {
  return points.map(([step, value]) => [step, value === null ? null : Number(value.toPrecision(5))]);
}

function byStep([a]: readonly [number, ...unknown[]], [b]: readonly [number, ...unknown[]]): number {
  return a - b;
}

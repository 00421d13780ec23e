import { markup, type Content } from './markup.ts';
import type { Section } from './section.ts';
import { trainingCurve, type TrainingCurve } from './training-curve.ts';

export const curves: Section = {
  id: 'curves',
  title: 'Loss and evaluation',
  make: async ({ events }) => {
    const curve = trainingCurve(await events());
    if (curve.steps === 0 && curve.discardedSteps === 0) return undefined;
    const { steps: _, maxSteps, withoutLoss, discardedSteps, smoothedOver, ...lines } = curve;
    return {
      body: markup`<p>${sentences(curve).join(' ')}</p>
<figure>
<div class="buttons" hidden>
<button type="button" data-chart="training" data-does="in">Zoom in</button>
<button type="button" data-chart="training" data-does="out">Zoom out</button>
<button type="button" data-chart="training" data-does="all">Whole curve</button>
<button type="button" data-chart="training" data-does="log" aria-pressed="false">Logarithmic</button>
</div>
<div class="chart tall" id="training" role="img" aria-label="${`Loss by step. ${sentences(curve).join(' ')}`}"></div>
<figcaption class="scripted" hidden>Drag over the curve to zoom into a stretch; Ctrl and the mouse wheel, two fingers or the bar below it zoom, too. A click on a name hides its line.</figcaption>
</figure>
`,
      charts: { training: { kind: 'training', ...lines } },
    };
  },
};

/** Resumes whose steps are named. */
const MOST_NAMED = 8;

function sentences(curve: TrainingCurve): string[] {
  const { loss, smoothed, evalLoss, resumes, checkpoints, steps, maxSteps, withoutLoss, discardedSteps, smoothedOver } =
    curve;
  const last = smoothed.at(-1)?.[1];
  const evaluated = evalLoss.findLast(([, value]) => value !== null);
  const best = evalLoss.reduce<typeof evaluated>(
    (low, point) => (point[1] !== null && (low === undefined || point[1] < (low[1] ?? Infinity)) ? point : low),
    undefined,
  );
  const said: (string | false)[] = [
    `${steps} of ${count(maxSteps, 'step')}${last == null ? '' : `; the loss went from ${number(smoothed[0]?.[1])} to ${number(last)}, smoothed over about ${smoothedOver} steps`}.`,
    evaluated !== undefined &&
      best !== undefined &&
      `The evaluation loss was ${number(evaluated[1])} at the end and lowest after step ${best[0]} with ${number(best[1])}.`,
    withoutLoss > 0 && `${count(withoutLoss, 'step')} had a loss that is no finite number.`,
    resumes.length > 0 &&
      `It was resumed ${resumes.length === 1 ? 'once, after step' : `${resumes.length} times, after steps`} ${inWords(resumes)}; ${count(discardedSteps, 'step')} had been made past the checkpoint and ${discardedSteps === 1 ? 'was' : 'were'} made again.`,
    checkpoints.length > 0 && `Diamonds are checkpoints.`,
    loss.length < steps && 'Of each stretch the highest and the lowest loss are drawn.',
  ];
  return said.filter((sentence) => sentence !== false);
}

/** The last few of them: `40 and 120`. */
function inWords(steps: number[]): string {
  const shown = steps.slice(-MOST_NAMED);
  const before = steps.length > shown.length ? '…, ' : '';
  return `${before}${[shown.slice(0, -1).join(', '), shown.at(-1)].filter((part) => part !== '').join(' and ')}`;
}

/** `1 step`, `2 steps`. */
function count(many: number, what: string): string {
  return `${many} ${what}${many === 1 ? '' : 's'}`;
}

function number(value: number | null | undefined): Content & string {
  return value == null ? '–' : String(Number(value.toPrecision(3)));
}

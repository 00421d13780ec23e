import type { RunGoodput } from '../goodput/run-goodput.ts';
import type { RunDirectory } from '../run-directory.ts';
import type { TrainingEvent } from '../training-events.ts';
import type { Markup } from './markup.ts';
import type { RunState } from './run-state.ts';

/** What sections are made from; each reads its own files, so that a damaged one spoils no other section. */
export interface ReportSource {
  run: RunDirectory;
  runName: string;
  /** $TEMPER_HOME, where the deployments are. */
  home: string;
  state: RunState;
  now: Date;
  /** Both are read once, when first asked for. */
  events: () => Promise<TrainingEvent[]>;
  goodput: () => Promise<RunGoodput | undefined>;
}

/** What stands below a section's heading. */
export interface SectionBody {
  /** In place of the section's own. */
  title?: string;
  body: Markup;
  /** By the `id` of the element that it is drawn into: what `browser/charts.js` draws. */
  charts?: Record<string, Chart>;
}

/** A drawing for `browser/charts.js`, by its kind. */
export type Chart =
  | ({ kind: 'training' } & TrainingChart)
  | { kind: 'histogram'; what: string; bars: { label: string; rows: number }[] }
  | { kind: 'sizes'; sizes: [width: number, height: number, count: number][]; maxPixels: number | null };

/** Points are [step, value]; a value that is no finite number is null and makes a gap. */
export interface TrainingChart {
  loss: Point[];
  smoothed: Point[];
  evalLoss: Point[];
  learningRate: Point[];
  /** What resumes threw away, a list for each of them. */
  discarded: Point[][];
  /** Steps that a resume went on after. */
  resumes: number[];
  checkpoints: number[];
}

export type Point = [step: number, value: number | null];

/** A part of the report; undefined when the run has nothing to show in it. */
export interface Section {
  id: string;
  title: string;
  make: (source: ReportSource) => Promise<SectionBody | undefined>;
}

import type { Verdict } from './gates.ts';
import type { PairedBootstrap } from './paired-bootstrap.ts';
import type { Score } from './scoring.ts';

/** `evaluation.json`. */
export interface Evaluation {
  scores: { base: Score | null; candidate: Score; champion: Score | null };
  /** The candidate against the champion. */
  comparison: PairedBootstrap | null;
  verdict: Verdict;
  rows: EvaluatedRow[];
}

/** Who was asked. */
export type JudgedModel = keyof Evaluation['scores'];

/** A held-out row and what each model answered; null for a model that was not asked. */
export interface EvaluatedRow {
  question: string;
  /** Absolute paths. */
  images: string[];
  expected: string;
  base: string | null;
  candidate: string;
  champion: string | null;
  /** Of this row's answers, by the metric; missing in records from before there were any. */
  scores?: { base: number | null; candidate: number | null; champion: number | null };
}

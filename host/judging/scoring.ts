import type { Config } from '../../configs/schema.ts';
import { compareFields, normalize, type FieldMatch } from './json-fields.ts';

/** What a row's score says; `own` is the number from `evaluate.scorer`. */
export type Metric = Config['evaluate']['metric'] | 'own';

/** The metrics as a reader calls them. */
export const metricNames: Record<Metric, string> = {
  exact: 'exact match',
  contains: 'expected answer contained',
  anls: 'ANLS',
  fields: 'field accuracy',
  own: 'own scorer',
};

export interface AnsweredRow {
  expected: string;
  answer: string;
  latencyMs: number;
  /** The own scorer's number for this row, from 0 to 1. */
  own?: number;
}

/** Figures over the rows asked; shares and scores from 0 to 1 (0 over no rows), latencies in milliseconds (null over none). */
export interface Score {
  rows: number;
  metric: Metric;
  /** Mean of the metric. */
  score: number;
  exactMatch: number;
  anls: number;
  /** Null when no expected answer is a JSON object. */
  fields: FieldScore | null;
  latencyP50Ms: number | null;
  latencyP95Ms: number | null;
}

export interface FieldScore {
  /** Mean over the rows of the share of a row's fields that are right. */
  accuracy: number;
  /** The rows whose expected answer is a JSON object. */
  rows: number;
  /** Share of the rows' values that are right, by field name. */
  byField: Record<string, number>;
}

/** All figures of a model's answers. */
export function scoreRows(rows: readonly AnsweredRow[], metric: Metric): Score {
  const meanOf = (which: Metric) => mean(rowScores(rows, which));
  const latencies = rows.map((row) => row.latencyMs);
  return {
    rows: rows.length,
    metric,
    score: meanOf(metric),
    exactMatch: meanOf('exact'),
    anls: meanOf('anls'),
    fields: scoreFields(rows),
    latencyP50Ms: percentile(latencies, 0.5),
    latencyP95Ms: percentile(latencies, 0.95),
  };
}

/** Each row's score from 0 to 1, in order; what a paired comparison of two models takes. */
export function rowScores(rows: readonly AnsweredRow[], metric: Metric): number[] {
  return rows.map(({ answer, expected, own }, index) => {
    if (metric !== 'own') return rowScore(answer, expected, metric);
    if (own === undefined) throw new RangeError(`row ${index + 1} has no score of the own scorer`);
    return own;
  });
}

/** One answer's score from 0 to 1. `fields` is `exact` for a row whose expected answer is no JSON object. */
export function rowScore(answer: string, expected: string, metric: Exclude<Metric, 'own'>): number {
  switch (metric) {
    case 'exact':
    case 'contains':
      return matches(answer, expected, metric) ? 1 : 0;
    case 'anls':
      return anls(answer, expected);
    case 'fields': {
      const fields = compareFields(answer, expected);
      return fields === null ? rowScore(answer, expected, 'exact') : shareRight(fields);
    }
  }
}

/** Whether an answer is right: the same as the expected one, or (`contains`) with the expected one in it. */
export function matches(answer: string, expected: string, metric: 'exact' | 'contains'): boolean {
  return metric === 'exact'
    ? normalize(answer) === normalize(expected)
    : normalize(answer).includes(normalize(expected));
}

/**
 * ANLS of one answer (Biten et al., 2019, "Scene Text Visual Question Answering"): with NL = Levenshtein distance / length of
 * the longer one, in code points, 1 − NL where NL < 0.5, else 0. Case is ignored, as its benchmarks (ST-VQA, DocVQA) do.
 */
export function anls(answer: string, expected: string): number {
  const a = codePoints(answer);
  const b = codePoints(expected);
  const longer = Math.max(a.length, b.length);
  if (longer === 0) return 1;
  if (2 * Math.abs(a.length - b.length) >= longer) return 0; // the distance is at least that, and rambling answers are long
  const distance = editDistance(a, b);
  return 2 * distance < longer ? 1 - distance / longer : 0;
}

/** The value below which the given share of the values lies (nearest rank); null for none. */
export function percentile(values: number[], share: number): number | null {
  const sorted = [...values].sort((x, y) => x - y);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? null;
}

function scoreFields(rows: readonly AnsweredRow[]): FieldScore | null {
  const compared = rows.flatMap(({ answer, expected }) => {
    const fields = compareFields(answer, expected);
    return fields === null ? [] : [fields];
  });
  if (compared.length === 0) return null;
  return { accuracy: mean(compared.map(shareRight)), rows: compared.length, byField: shareByField(compared.flat()) };
}

function shareByField(matches: FieldMatch[]): Record<string, number> {
  const byField = new Map<string, FieldMatch[]>();
  for (const match of matches) {
    const known = byField.get(match.field);
    if (known === undefined) byField.set(match.field, [match]);
    else known.push(match);
  }
  return Object.fromEntries([...byField].map(([field, found]) => [field, shareRight(found)]));
}

function shareRight(fields: FieldMatch[]): number {
  return mean(fields.map(({ right }) => (right ? 1 : 0)));
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}

function codePoints(text: string): Uint32Array {
  return Uint32Array.from([...normalize(text.toLowerCase())], (point) => point.codePointAt(0) ?? 0);
}

function editDistance(a: Uint32Array, b: Uint32Array): number {
  const row = Uint32Array.from(b, (_, index) => index + 1);
  a.forEach((inA, i) => {
    let diagonal = i;
    let left = i + 1;
    for (let j = 0; j < b.length; j++) {
      const above = row[j] as number;
      const oneMore = (left < above ? left : above) + 1;
      const replaced = diagonal + (inA === b[j] ? 0 : 1);
      left = oneMore < replaced ? oneMore : replaced;
      row[j] = left;
      diagonal = above;
    }
  });
  return row.at(-1) ?? a.length;
}

import type { EvaluatedRow, Evaluation, JudgedModel } from '../judging/evaluation.ts';
import { rowScore, type Metric } from '../judging/scoring.ts';

export type Change = 'won' | 'lost' | 'other';

export interface ChangedRow {
  change: Change;
  row: EvaluatedRow;
  /** Of the candidate, and of who it is compared with. */
  scores: { candidate: number; rival: number };
}

export interface ChangedRows {
  /** Who the candidate is compared with: the champion, else the base; null when nobody else was asked. */
  rival: JudgedModel | null;
  /** Won ones first, then lost ones, then answers that differ and score the same. */
  rows: ChangedRow[];
  /** Rows that both answered in the same words. */
  same: number;
}

/** The rows on which the candidate's answer is another one than its rival's. */
export function changedRows({ rows, scores }: Evaluation): ChangedRows {
  const rival = scores.champion ? 'champion' : scores.base ? 'base' : null;
  if (rival === null) return { rival, rows: [], same: rows.length };
  const { metric } = scores.candidate;
  const all = rows.flatMap((row): ChangedRow[] => {
    const found = { candidate: scoreOf(row, 'candidate', metric), rival: scoreOf(row, rival, metric) };
    const difference = found.candidate - found.rival;
    if (difference === 0 && row.candidate === row[rival]) return [];
    return [{ change: difference > 0 ? 'won' : difference < 0 ? 'lost' : 'other', row, scores: found }];
  });
  const order: Change[] = ['won', 'lost', 'other'];
  return {
    rival,
    rows: order.flatMap((change) => all.filter((each) => each.change === change)),
    same: rows.length - all.length,
  };
}

/** As it was recorded; in older records by the metric, and there by exact match for one's own scorer. */
function scoreOf(row: EvaluatedRow, model: JudgedModel, metric: Metric): number {
  const recorded = row.scores?.[model];
  if (typeof recorded === 'number') return recorded;
  return rowScore(row[model] ?? '', row.expected, metric === 'own' ? 'exact' : metric);
}

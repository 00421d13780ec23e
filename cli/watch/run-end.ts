import { colors } from './colors.ts';
import { join } from 'node:path';
import { percent } from '../../host/goodput/text.ts';
import type { RunSnapshot } from './run-snapshot.ts';

/** How a run stands or ended, in the word that the docs use for it. */
export function outcomeOf({ status, result }: RunSnapshot): string {
  const word = result?.outcome ?? (status === 'COMPLETED' ? 'finished' : status.toLowerCase().replaceAll('_', ' '));
  if (['deployed', 'finished', 'unchanged', 'running'].includes(word)) return colors.green(word);
  return ['rejected', 'rolledBack', 'cancelled'].includes(word) ? colors.yellow(word) : colors.red(word);
}

/** 0: it did what it was to do; 1: it failed or was ended; 3: its model is not in service, by its gates, a person or its watch. */
export function exitCodeOf({ result }: RunSnapshot): number {
  if (result === null) return 1;
  return result.outcome === 'rejected' || result.outcome === 'rolledBack' ? 3 : 0;
}

/** What one wants to know of a run that has ended; nothing while it runs. */
export function endLines({ runName, result, failure }: RunSnapshot): string[] {
  if (failure !== null) return [colors.red(failure), `Its report: npx temper report ${runName}`];
  if (result === null) return [];
  const { evaluation, why, apiUrl, pageUrl, runDirectory } = result;
  const score = ({ score: value, exactMatch, rows }: { score: number; exactMatch: number; rows: number }) =>
    `${value.toFixed(3)} (right on ${percent(exactMatch)} of ${rows} rows)`;
  const lines: [string, string | null][] = [
    ['why', why],
    ['score', evaluation === null ? null : score(evaluation.candidate)],
    ['champion', evaluation?.champion == null ? null : score(evaluation.champion)],
    ['base', evaluation?.base == null ? null : score(evaluation.base)],
    ['chat page', pageUrl],
    ['API', apiUrl === null ? null : `${apiUrl}/v1`],
    ['report', join(runDirectory, 'report.html')],
  ];
  return lines.flatMap(([name, value]) => (value === null ? [] : [`${name.padEnd(10)} ${value}`]));
}

import { durationText } from '../duration.ts';
import { badge, markup, table } from './markup.ts';
import type { ReportStage, Setback } from './run-state.ts';
import type { Section } from './section.ts';

export const stages: Section = {
  id: 'stages',
  title: 'Stages',
  make: ({ state }) => {
    if (state.stages.length === 0) return Promise.resolve(undefined);
    const head = ['stage', 'state', 'took', 'attempt', 'result'];
    const body = markup`${table(head, state.stages.map(stageRow), { numeric: isNumeric, stacked: true })}${setbackTable(state.setbacks)}`;
    return Promise.resolve({ body });
  },
};

const isNumeric = (column: number) => column === 2 || column === 3;

function stageRow({ stage, state, started, finished, attempt, headline }: ReportStage) {
  const seconds = started === null || finished === null ? null : (Date.parse(finished) - Date.parse(started)) / 1000;
  return [stage, badge(state), seconds === null ? '' : durationText(seconds), attempt, firstLine(headline ?? '')];
}

/** What did not hold the run up for good. */
function setbackTable(setbacks: Setback[]) {
  if (setbacks.length === 0) return null;
  const rows = setbacks.map(({ at, stage, attempt, error, message }) => [
    markup`<span class="time">${at.slice(0, 19).replace('T', ' ')}</span>`,
    stage,
    attempt,
    error,
    firstLine(message ?? ''),
  ]);
  const head = ['at (UTC)', 'stage', 'attempt', 'error', 'message'];
  return markup`<h3>Attempts that failed</h3>${table(head, rows, { numeric: (column) => column === 2, stacked: true })}`;
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? '';
}

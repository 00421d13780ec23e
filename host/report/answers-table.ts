import type { Evaluation, EvaluatedRow, JudgedModel } from '../judging/evaluation.ts';
import { changedRows, type Change, type ChangedRow } from './changed-rows.ts';
import { badge, markup, table, type Content } from './markup.ts';
import { makeThumbnails, type Thumbnails } from './thumbnails.ts';

/** Rows of each kind that stand in the report, its pictures a row, and characters of a question or an answer. */
const MOST_ROWS = 100;
const MOST_PICTURES = 4;
const MOST_CHARACTERS = 2_000;

const kinds: Change[] = ['won', 'lost', 'other'];

/** The rows that changed, with their pictures; where nobody is to compare with, the first rows. */
export async function answersTable(evaluation: Evaluation): Promise<Content> {
  const { rival, rows, same } = changedRows(evaluation);
  if (evaluation.rows.length === 0) return null;
  const shown: Pick<ChangedRow, 'row' | 'change'>[] =
    rival === null
      ? evaluation.rows.slice(0, MOST_ROWS).map((row) => ({ row, change: 'other' }))
      : kinds.flatMap((kind) => rows.filter(({ change }) => change === kind).slice(0, MOST_ROWS));
  const thumbnails = await makeThumbnails(shown.flatMap(({ row }) => row.images.slice(0, MOST_PICTURES)));
  const leftOut = (rival === null ? evaluation.rows.length : rows.length) - shown.length;
  const models: JudgedModel[] = rival === null ? ['candidate'] : [rival, 'candidate'];
  return markup`<h3>${rival === null ? 'Answers' : `Rows that changed against the ${rival}`}</h3>
<p>${told(rows, same, leftOut, rival)}${thumbnails.problem === null ? null : ` Pictures are left out: ${thumbnails.problem}`}</p>
${rival === null || rows.length === 0 ? null : filters(rows)}
${shown.length === 0 ? null : rowsTable(shown, models, thumbnails)}`;
}

function told(rows: ChangedRow[], same: number, leftOut: number, rival: JudgedModel | null): string {
  const out = leftOut > 0 ? ` ${leftOut} more are left out here; evaluation.json has them all.` : '';
  if (rival === null) return `Nobody else was asked.${out}`;
  const count = (kind: Change) => rows.filter(({ change }) => change === kind).length;
  const other = count('other');
  const said = [
    `The candidate won ${count('won')} and lost ${count('lost')} of ${rows.length + same} rows.`,
    other > 0 && `${other} more ${other === 1 ? 'answer scores' : 'answers score'} the same in other words.`,
    same > 0 && `${same} ${same === 1 ? 'answer is' : 'answers are'} the ${rival}'s, word for word.`,
  ];
  return `${said.filter((sentence) => sentence !== false).join(' ')}${out}`;
}

function filters(rows: ChangedRow[]): Content {
  const button = (kind: Change | 'all', many: number) =>
    markup`<button type="button" data-filter="${kind}" aria-pressed="${kind === 'all' ? 'true' : 'false'}">${kind} (${many})</button>\n`;
  const count = (kind: Change) => rows.filter(({ change }) => change === kind).length;
  return markup`<div class="buttons" hidden role="group" aria-label="Which rows are shown">${button('all', rows.length)}${kinds.map((kind) => button(kind, count(kind)))}</div>`;
}

function rowsTable(
  shown: Pick<ChangedRow, 'row' | 'change'>[],
  models: JudgedModel[],
  thumbnails: Thumbnails,
): Content {
  const isCompared = models.length > 1;
  const head = [...(isCompared ? ['change'] : []), 'picture', 'question', 'expected', ...models];
  const cells = ({ row, change }: (typeof shown)[number]): Content[] => [
    ...(isCompared ? [badge(change)] : []),
    pictures(row, thumbnails),
    text(row.question.replaceAll('<image>', '')),
    text(row.expected),
    ...models.map((model) => text(row[model] ?? '')),
  ];
  return table(head, shown.map(cells), { stacked: true, changes: shown.map(({ change }) => change) });
}

function pictures({ images }: EvaluatedRow, { byPath }: Thumbnails): Content {
  const shown = images.slice(0, MOST_PICTURES).map((path) => {
    const found = byPath.get(path);
    const name = path.split('/').at(-1) ?? '';
    if (found === undefined) return markup`<span class="missing">${name}</span>`;
    return markup`<img src="${found.source}" width="${found.width}" height="${found.height}" alt="${name}" title="${name}">`;
  });
  const more = images.length - shown.length;
  return [shown, more > 0 ? markup`<span class="missing">and ${more} more</span>` : null];
}

function text(value: string): Content {
  const short = value.length > MOST_CHARACTERS ? `${value.slice(0, MOST_CHARACTERS)} …` : value;
  return markup`<span class="text">${short.trim()}</span>`;
}

/** HTML that may stand in a page as it is. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export type Content = Markup | string | number | null | undefined | Content[];

/** HTML with values in it: text is escaped, markup and lists of it stand as they are, null and undefined are nothing. */
export function markup(parts: TemplateStringsArray, ...values: Content[]): Markup {
  return new Markup(parts.map((part, index) => (index === 0 ? part : textOf(values[index - 1]) + part)).join(''));
}

export interface TableStyle {
  /** Columns whose cells stand to the right. */
  numeric?: (column: number) => boolean;
  /** Columns of sentences: on a narrow page each row becomes a list of its cells. */
  stacked?: boolean;
  /** What a row is, for `browser/filter-rows.js`. */
  changes?: string[];
}

/** A table that scrolls by itself where it is wider than the page. */
export function table(
  head: string[],
  rows: Content[][],
  { numeric = () => false, stacked = false, changes }: TableStyle = {},
): Markup {
  const align = (column: number) => (numeric(column) ? markup` class="number"` : null);
  const name = (column: number) => (stacked ? markup` data-name="${head[column]}"` : null);
  const change = (row: number) => (changes === undefined ? null : markup` data-change="${changes[row]}"`);
  const line = (cells: Content[], row: number) =>
    markup`<tr${change(row)}>${cells.map((cell, column) => markup`<td${align(column)}${name(column)}>${stacked ? markup`<div>${cell}</div>` : cell}</td>`)}</tr>\n`;
  return markup`<div class="scroll" role="group" tabindex="0" aria-label="${head[0] ?? ''}"><table${stacked ? markup` class="stacked"` : null}>
<thead><tr>${head.map((title, column) => markup`<th scope="col"${align(column)}>${title}</th>`)}</tr></thead>
<tbody>${rows.map(line)}</tbody></table></div>\n`;
}

/** Names with what they are, as a list of two columns; those without a value are left out. */
export function facts(pairs: [string, Content][]): Markup {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== '');
  return markup`<dl class="facts">${known.map(([name, value]) => markup`<div><dt>${name}</dt><dd>${value}</dd></div>\n`)}</dl>\n`;
}

/** A whole number with its thousands apart: `1,030,000`. */
export function grouped(count: number): string {
  return count.toLocaleString('en-US');
}

/** A word that says how something went, colored by it. */
export function badge(word: string): Markup {
  return markup`<span class="badge ${moods[word] ?? 'plain'}">${words[word] ?? word}</span>`;
}

/** A value as JSON inside a script element, which nothing in it can end. */
export function jsonScript(id: string, value: unknown): Markup {
  const json = JSON.stringify(value).replaceAll('<', '\\u003c');
  return markup`<script type="application/json" id="${id}">${new Markup(json)}</script>\n`;
}

const words: Record<string, string> = { rolledBack: 'rolled back', awaitingApproval: 'waits for approval' };

const moods: Record<string, string> = {
  ...{ deployed: 'good', finished: 'good', done: 'good', passed: 'good', won: 'good', unchanged: 'good' },
  ...{ failed: 'bad', lost: 'bad', broken: 'bad' },
  ...{ rejected: 'doubtful', rolledBack: 'doubtful', cancelled: 'doubtful', 'broken off': 'doubtful' },
};

function textOf(value: Content): string {
  if (value === null || value === undefined) return '';
  if (value instanceof Markup) return value.text;
  return Array.isArray(value) ? value.map(textOf).join('') : escape(String(value));
}

function escape(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replace(/[&<>"']/g, (character) => names[character] ?? character);
}

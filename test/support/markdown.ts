import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';

export interface Block {
  /** Path of the page from the checkout. */
  page: string;
  /** Of the block's first line. */
  line: number;
  language: string;
  text: string;
}

/** The pages that people follow, by their paths from the checkout; the log is history. */
export const pages: string[] = [
  ...['README.md', 'README.zh-CN.md', 'CONTRIBUTING.md'],
  ...readdirSync(join(checkout, 'docs'))
    .filter((name) => name.endsWith('.md') && name !== 'log.md')
    .map((name) => `docs/${name}`),
];

export function readPage(page: string): string {
  return readFileSync(join(checkout, page), 'utf8');
}

/** The fenced blocks of a page, those in lists included. */
export function blocksOf(page: string, text = readPage(page)): Block[] {
  return [...text.matchAll(/^( *)```(\S*)\n([\s\S]*?)^\1```$/gm)].map((match) => ({
    page,
    line: text.slice(0, match.index).split('\n').length + 1,
    language: match[2] ?? '',
    text: (match[3] ?? '').replaceAll(new RegExp(`^${match[1] ?? ''}`, 'gm'), ''),
  }));
}

/** A page without its fenced blocks. */
export function proseOf(text: string): string {
  return text.replaceAll(/^( *)```[\s\S]*?^\1```$/gm, '');
}

/** A bash block's commands in order: comment lines left out, continued lines and here-documents whole. */
export function commandsOf({ text }: Block): string[] {
  const commands: string[] = [];
  const lines = text.split('\n');
  for (let line = lines.shift(); line !== undefined; line = lines.shift()) {
    if (/^\s*(#|$)/.test(line)) continue;
    let command = line;
    while (command.endsWith('\\') && lines.length > 0) command += `\n${lines.shift() ?? ''}`;
    const end = command.match(/<<-?\s*'?(\w+)'?/)?.[1];
    for (let more = end === undefined ? undefined : lines.shift(); more !== undefined; more = lines.shift()) {
      command += `\n${more}`;
      if (more === end) break;
    }
    commands.push(command);
  }
  return commands;
}

/** A command without the remark at its end. */
export function withoutRemark(command: string): string {
  return command.replace(/\s+# .*$/, '').trim();
}

/** The anchors of a page's headings, as GitHub makes them. */
export function anchorsOf(text: string): Set<string> {
  const seen = new Map<string, number>();
  return new Set(
    headingsOf(text).map(({ title }) => {
      const anchor = title
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, '')
        .replaceAll(' ', '-');
      const before = seen.get(anchor) ?? 0;
      seen.set(anchor, before + 1);
      return before === 0 ? anchor : `${anchor}-${before}`;
    }),
  );
}

export function headingsOf(text: string): { level: number; title: string }[] {
  return [...proseOf(text).matchAll(/^(#+) (.+)$/gm)].map((match) => ({
    level: (match[1] ?? '').length,
    title: (match[2] ?? '').replaceAll(/[`*]/g, '').trim(),
  }));
}

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { checkout } from '../checkout.ts';

export interface ErrorAdvice {
  means: string;
  /** Whether it is tried again. */
  retried: string;
  whoActs: string;
  toDo: string;
}

/** What `docs/errors.md` says about an error, by its columns' headings; undefined for one that it does not have. */
export async function adviceFor(error: string | undefined): Promise<ErrorAdvice | undefined> {
  if (error === undefined) return undefined;
  const lines = (await readFile(join(checkout, 'docs/errors.md'), 'utf8').catch(() => '')).split('\n');
  const head = cellsOf(lines.find((line) => line.startsWith('| name |')));
  const row = cellsOf(lines.find((line) => line.startsWith(`| ${error} |`)));
  const cell = (heading: string) => row[head.indexOf(heading)];
  const [means, retried, whoActs, toDo] = ['means', 'tried again', 'who acts', 'what to do'].map(cell);
  return means && retried && whoActs && toDo ? { means, retried, whoActs, toDo } : undefined;
}

function cellsOf(line = ''): string[] {
  return line.split('|').map((cell) => cell.trim());
}

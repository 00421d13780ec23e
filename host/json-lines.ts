import { appendFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';

/** Add one object to a file of JSON lines by a single append; the first newline ends what a crash left half-written. */
export function appendLine(path: string, line: object): void {
  appendFileSync(path, `\n${JSON.stringify(line)}\n`);
}

/** The objects of a file of JSON lines, each of which has a `type`; none when it is missing. Other lines are passed over. */
export async function readLines<T extends { type: string }>(path: string): Promise<T[]> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  return text.split('\n').flatMap((line) => parseLine<T>(line));
}

/** The object on a line, in a list; an empty one for a line that is none or has no `type`. */
export function parseLine<T extends { type: string }>(line: string): T[] {
  try {
    const value = JSON.parse(line) as T | null;
    return typeof value?.type === 'string' ? [value] : [];
  } catch {
    return [];
  }
}

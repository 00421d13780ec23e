import { describe, expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { errorNames } from '../../host/errors.ts';
import { readPage } from '../support/markdown.ts';

const failures = /## Failures of a run\n([^]*?)\n## /.exec(readPage('docs/runbook.md'))?.[1] ?? '';
const rows = [...failures.matchAll(/^\| (.+?) \| .+ \| .+ \|$/gm)].map(([, seen = '']) => seen);
const messages = rows.flatMap((seen) => [...seen.matchAll(/`([^`]+)`/g)].map(([, message = '']) => message));
const folders = ['activities', 'cli', 'configs', 'host', 'serving', 'trainer', 'workers', 'workflows'];
const sources = folders.flatMap(sourcesIn);

test('each name of an error has a section in the runbook', () => {
  const named = [...failures.matchAll(/^### (\w+Error): /gm)].map(([, name]) => name);
  expect(named.sort()).toEqual([...errorNames].sort());
});

describe('what the runbook says that one sees is what the code says', () => {
  test('of many failures', () => expect(messages.length).toBeGreaterThan(40));

  test.each(messages)('%s', (message) => {
    const parts = message
      .split('…')
      .map((part) => part.trim())
      .filter((part) => /\w{3}/.test(part));
    expect(sources.filter((text) => parts.every((part) => text.includes(part)))).not.toEqual([]);
  });
});

/** The text of each source file, with strings that go on in the next line in one piece. */
function sourcesIn(folder: string): string[] {
  return readdirSync(join(checkout, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return entry.name.startsWith('.') ? [] : sourcesIn(path);
    if (!/\.(ts|py)$/.test(entry.name)) return [];
    return [readFileSync(join(checkout, path), 'utf8').replaceAll(/["'`] ?\+?\s*\n\s*f?["'`]/g, '')];
  });
}

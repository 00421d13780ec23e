import { describe, expect, test } from '@jest/globals';
import type { Command } from 'commander';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { commandsPage } from '../../cli/commands-page.ts';
import { makeProgram } from '../../cli/main.ts';
import { checkout } from '../../host/checkout.ts';
import { pages, proseOf, readPage } from '../support/markdown.ts';

test('docs/cli.md is what `node scripts/write-cli-docs.mjs` writes', () => {
  expect(readPage('docs/cli.md')).toBe(commandsPage(makeProgram()));
});

test('docs/cli.md has every variable that a worker or a command reads', () => {
  const sources = ['cli', 'workers', 'host', 'activities'].flatMap((folder) =>
    readdirSync(join(checkout, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts') && name !== 'commands-page.ts')
      .map((name) => readFileSync(join(checkout, folder, name), 'utf8')),
  );
  const read = sources.flatMap((text) =>
    [...text.matchAll(/\b(?:env\.|^ {2})(TEMPER_[A-Z_]+)/gm)].map(([, name]) => name),
  );
  expect(read.length).toBeGreaterThan(8);
  const page = readPage('docs/cli.md');
  expect([...new Set(read)].filter((name) => !page.includes(`| \`${name}\` |`))).toEqual([]);
});

describe('commands in the text of the docs are ones that there are', () => {
  const inText = pages.flatMap((page) =>
    [...proseOf(readPage(page)).matchAll(/`(?:\w+=\S+\s+)*(?:npx\s+)?temper\s+([^`]+)`/g)].map(([, rest = '']) => ({
      page,
      words: rest.split(/\s+/).filter((word) => word !== ''),
    })),
  );

  test.each(inText)('$page: temper $words', ({ words }) => {
    const { command, rest } = find(makeProgram(), words);
    const known = command.options.flatMap(({ short, long }) => [short, long]);
    expect(rest.filter((word) => /^--?[a-z]/.test(word) && ![...known, '--help'].includes(word))).toEqual([]);
  });

  test.each(pages)('every script of npm in %s', (page) => {
    const { scripts } = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8')) as { scripts: object };
    const named = [...readPage(page).matchAll(/\bnpm run ([\w:]+)/g)].map(([, name = '']) => name);
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });
});

/** The command that the words name; its name must be known. */
function find(program: Command, words: string[]): { command: Command; rest: string[] } {
  if (program.commands.length === 0) return { command: program, rest: words };
  const [name = '', ...rest] = words;
  const named = program.commands.find((command) => command.name() === name);
  if (named === undefined && name === 'COMMAND') return { command: program, rest };
  expect({ command: name, exists: named !== undefined || name === 'help' }).toEqual({ command: name, exists: true });
  return named === undefined ? { command: program, rest: [] } : find(named, rest);
}

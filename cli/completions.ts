import tab from '@bomb.sh/tab/commander';
import type { Command } from 'commander';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { listConfigs } from '../configs/load.ts';
import { readSettings } from '../workers/settings.ts';

/** What each kind of argument can be on this host. */
const known: Record<string, () => string[]> = {
  config: () => listConfigs(readSettings().configsFolder),
  run: () => foldersIn('runs'),
  name: () => foldersIn('deployments'),
};

/** Add the command `complete`, which prints a shell's completion script and answers what that asks. */
export function completions(program: Command): void {
  const { commands } = tab(program);
  for (const { name, registeredArguments } of program.commands.map((command) => ({
    name: command.name(),
    registeredArguments: command.registeredArguments,
  })))
    for (const argument of registeredArguments) {
      const values = known[argument.name()];
      const completed = commands.get(name)?.arguments.get(argument.name());
      if (values !== undefined && completed !== undefined)
        completed.handler = (complete) => {
          for (const value of values()) complete(value, '');
        };
    }
}

function foldersIn(folder: string): string[] {
  try {
    const entries = readdirSync(join(readSettings().home, folder), { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch {
    return [];
  }
}

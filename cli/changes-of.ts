import { parse } from 'yaml';
import type { ConfigChanges } from '../configs/with-changes.ts';
import { messageOf, TemperError } from '../host/errors.ts';

/** What `--set PATH=VALUE` says, each value read as YAML: `train.num_train_epochs=1`, `deploy.enabled=false`. */
export function changesOf(set: readonly string[]): ConfigChanges {
  return Object.fromEntries(set.map(change));
}

/** Collects an option that may be given several times, for commander. */
export function several(value: string, before: string[]): string[] {
  return [...before, value];
}

function change(text: string): [string, unknown] {
  const [, path, value] = /^([^=\s]+)=(.*)$/s.exec(text) ?? [];
  if (path === undefined || value === undefined)
    throw new TemperError('ConfigError', `--set ${text}: takes PATH=VALUE, such as train.num_train_epochs=1.`);
  try {
    return [path, parse(value) ?? value];
  } catch (error) {
    throw new TemperError(
      'ConfigError',
      `--set ${path}: ${JSON.stringify(value)} is no YAML (${messageOf(error).split('\n')[0]}).`,
    );
  }
}

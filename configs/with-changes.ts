import type { ConfigIssue } from './config-error.ts';

/** Settings of a config by their dotted path, such as `train.num_train_epochs`, that take the place of what its file says. */
export type ConfigChanges = Readonly<Record<string, unknown>>;

/** The config as read, with the changes in it; what can't be changed so is among the issues. */
export function withChanges(value: unknown, changes: ConfigChanges): { value: unknown; issues: ConfigIssue[] } {
  const changed: unknown = structuredClone(value);
  const issues = Object.entries(changes).flatMap(([path, setting]) => change(changed, path, setting));
  return { value: changed, issues };
}

function change(config: unknown, path: string, setting: unknown): ConfigIssue[] {
  const keys = path.split('.');
  if (keys.some((key) => key === '' || key === '__proto__'))
    return [{ path, message: `"${path}" names no setting; give its path, such as train.num_train_epochs` }];
  let section = config;
  for (const [depth, key] of keys.entries()) {
    if (!isSection(section))
      return [{ path, message: `${path}: ${keys.slice(0, depth).join('.')} is no section and has no keys` }];
    section = depth === keys.length - 1 ? (section[key] = setting) : (section[key] ??= {});
  }
  return [];
}

function isSection(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

import { existsSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { listOf } from './check-options.ts';
import type { ConfigIssue } from './config-error.ts';
import { show } from './explain-option.ts';
import type { ModelSource } from './schema.ts';
import type { TrainOptions } from './train-options.ts';
import { pathOptions, type OptionName } from './train-rules.ts';

export interface PathScope {
  /** Relative paths start here. */
  root: string;
  /** Paths must lie inside one of these folders, links followed; without them anywhere, and names on a hub will do. */
  allowedRoots?: readonly string[];
  /** Bases with a `model.source` go here unless `model_name_or_path` says where. */
  modelsRoot?: string;
}

/** What a path has to be; `fetched` is a folder that need not be there yet. */
type Kind = NonNullable<(typeof pathOptions)[OptionName]> | 'fetched';

/** Options that name files and folders, absolute and with links followed; `issues` says which may not be used and why. */
export function resolvePaths(
  train: Partial<TrainOptions>,
  scope: PathScope,
  { model, prefix = 'train.' }: { model?: ModelSource | undefined; prefix?: string } = {},
): { paths: Record<string, string>; issues: ConfigIssue[] } {
  const paths: Record<string, string> = {};
  const issues: ConfigIssue[] = [];
  for (const [name, usual] of Object.entries(pathOptions) as [OptionName, Kind][]) {
    const isFetched = name === 'model_name_or_path' && model !== undefined;
    const kind = isFetched ? 'fetched' : usual;
    const given = isFetched ? (train[name] ?? join(scope.modelsRoot ?? scope.root, folderOf(model))) : train[name];
    const resolved = pathsGiven(name, given).map((path) => {
      const answer = resolvePath(name, path, kind, scope);
      if ('path' in answer) return answer.path;
      issues.push({ path: `${prefix}${name}`, message: `${prefix}${name}: ${answer.message}` });
      return path;
    });
    if (resolved.length > 0) paths[name] = resolved.join(',');
  }
  return { paths, issues };
}

/** `path` with all links followed as far as it exists. */
export function followLinks(path: string): string {
  if (existsSync(path)) return realpathSync(path);
  const parent = dirname(path);
  return parent === path ? path : join(followLinks(parent), basename(path));
}

/** Whether `path` is `folder` or lies in it; both with links followed. */
export function isInside(path: string, folder: string): boolean {
  const way = relative(folder, path);
  return way === '' || (!isAbsolute(way) && way !== '..' && !way.startsWith(`..${sep}`));
}

/** Several adapters may stand in one string; a block or a JSON text is a value of its own and no path. */
function pathsGiven(name: OptionName, value: TrainOptions[OptionName]): string[] {
  if (name === 'adapter_name_or_path') return listOf(value as string | string[] | null | undefined);
  return typeof value === 'string' && !value.trimStart().startsWith('{') ? [value] : [];
}

function resolvePath(
  name: OptionName,
  given: string,
  kind: Kind,
  { root, allowedRoots }: PathScope,
): { path: string } | { message: string } {
  if (given.includes('\0')) return { message: 'is no path' };
  if (name === 'dataset_dir' && /^(ONLINE$|REMOTE:)/.test(given)) {
    return { message: `${given} reads rows from a hub; put them into a folder on this host, with a dataset_info.json` };
  }
  if (given.startsWith('~')) return { message: `${given}: ~ is not expanded here; write the whole path` };
  const path = followLinks(resolve(root, given));
  const exists = existsSync(path);
  if (allowedRoots === undefined && !exists && kind !== 'file' && name !== 'dataset_dir' && looksLikeHubId(given))
    return { path: given };
  if (
    allowedRoots !== undefined &&
    name === 'model_name_or_path' &&
    kind === 'folder' &&
    !exists &&
    looksLikeHubId(given)
  )
    return { message: downloadFirst(given, allowedRoots) };
  if (allowedRoots?.some((folder) => isInside(path, followLinks(resolve(folder)))) === false) {
    const leads = path === given ? given : `${given} leads to ${path}, which`;
    const allowed = allowedRoots.join(', ') || 'none';
    return {
      message: `${leads} is outside the folders that this worker may use (${allowed}); TEMPER_DATA_ROOTS in the worker's environment lists them`,
    };
  }
  if (kind === 'written') return { path };
  if (!exists && kind === 'fetched') return { path };
  if (!exists) return { message: `${show(path)} does not exist on this host` };
  const isFolder = statSync(path).isDirectory();
  if ((kind === 'folder' || kind === 'fetched') && !isFolder)
    return { message: `${show(path)} is a file, and it must be a folder` };
  if (kind === 'file' && isFolder) return { message: `${show(path)} is a folder, and it must be a file` };
  return { path };
}

/** `ORG--NAME`, and a revision of one's own with it; the same for both hubs. */
function folderOf({ source, revision }: ModelSource): string {
  const name = source.slice(source.indexOf(':') + 1).replace('/', '--');
  return revision === undefined ? name : `${name}--${revision.replaceAll('/', '-')}`;
}

/** Whether it could be the name of a model on a hub, as Qwen/Qwen3-VL-4B-Instruct is. */
export function looksLikeHubId(given: string): boolean {
  return /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(given);
}

function downloadFirst(hubId: string, allowedRoots: readonly string[]): string {
  const folder = join(allowedRoots.at(-1) ?? '/data', 'model', basename(hubId).toLowerCase());
  return (
    `${hubId} is a name on a hub, and the base must be a folder on this host. Leave model_name_or_path out and write ` +
    `model: {source: "hf:${hubId}"} (or modelscope:) beside train:, and it is fetched; or download it once, ` +
    `hf download ${hubId} --local-dir ${folder} (or modelscope download --model ${hubId} --local_dir ${folder}), ` +
    `and write model_name_or_path: ${folder}`
  );
}

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, extname, join, relative, resolve, sep } from 'node:path';
import { checkTogether, type SoundParts } from './check-together.ts';
import { ConfigError, type ConfigIssue } from './config-error.ts';
import { explainOption } from './explain-option.ts';
import { explainIssues } from './explain-issues.ts';
import { nearest } from './nearest.ts';
import { readYaml, type ReadYaml } from './read-yaml.ts';
import { resolveConfig, type Origin } from './resolve.ts';
import { followLinks, isInside, resolvePaths, type PathScope } from './resolve-paths.ts';
import { configSchema, type ResolvedConfig } from './schema.ts';
import { optionSchema, type TrainOptions } from './train-options.ts';
import { isOption } from './train-rules.ts';
import { withChanges, type ConfigChanges } from './with-changes.ts';

export interface LoadOptions extends PathScope {
  allowedRoots: readonly string[];
  modelsRoot: string;
  /** A config's name or path is looked up here, and may not lead out of it. */
  configsFolder: string;
}

const MAX_CONFIG_BYTES = 1024 * 1024;

/**
 * The config of this name (`demo`), at this path below the configs folder, or given as an object: read, checked strictly,
 * resolved. All that is wrong with it comes in one ConfigError.
 */
export function loadConfig(input: string | object, options: LoadOptions, changes: ConfigChanges = {}): ResolvedConfig {
  if (typeof input !== 'string')
    return checkConfig(input, { name: 'inline', source: 'inline' }, () => undefined, options, changes);
  return loadConfigFile(findConfig(input, options), options, changes);
}

/** The config in this file, wherever it is. */
export function loadConfigFile(file: string, options: LoadOptions, changes: ConfigChanges = {}): ResolvedConfig {
  const shown = isInside(file, options.root) ? relative(options.root, file) : file;
  const { value, issues, locate } = readYaml(readConfigFile(file, shown));
  if (issues.length > 0) throw new ConfigError(shown, issues);
  const name = nameOf(file, options.configsFolder);
  return checkConfig(value ?? {}, { name, source: shown }, locate, options, changes, file);
}

/** The names of the configs there are, sorted. */
export function listConfigs(configsFolder: string): string[] {
  if (!existsSync(configsFolder)) return [];
  const folder = followLinks(resolve(configsFolder));
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => isYaml(path) && isInside(followLinks(join(folder, path)), folder))
    .map((path) => path.slice(0, -extname(path).length))
    .sort();
}

function checkConfig(
  written: unknown,
  origin: Origin,
  locate: ReadYaml['locate'],
  options: LoadOptions,
  changes: ConfigChanges,
  file = origin.source,
): ResolvedConfig {
  const { value, issues: unchangeable } = withChanges(written, changes);
  const parsed = configSchema.safeParse(value);
  const sound = soundParts(value);
  const { paths, issues: pathIssues } = resolvePaths(sound.train, options, { model: sound.model });
  const wrong = parsed.success ? [] : explainIssues(parsed.error, value);
  const found = [
    ...unchangeable,
    ...wrong,
    ...missingBase(value),
    ...foreignScorer(origin.source === 'inline' ? value : withChanges({}, changes).value),
    ...checkTogether(sound),
    ...pathIssues,
  ];
  const issues = found.map((issue) => ({ ...issue, ...(issue.path in changes ? {} : locate(issue.path)) }));
  if (!parsed.success || issues.length > 0) throw new ConfigError(origin.source, inOrder(issues));
  return resolveConfig(parsed.data, paths, { name: origin.name, source: file });
}

/** The base is a folder that is there or one that `model.source` fills; a config has to say one of the two. */
function missingBase(value: unknown): ConfigIssue[] {
  if (!isRecord(value) || !isRecord(value.train) || value.model !== undefined) return [];
  const name = 'model_name_or_path';
  return value.train[name] === undefined ? [{ path: `train.${name}`, message: explainOption(name, undefined) }] : [];
}

/**
 * Whoever may start a workflow is not thereby allowed to run programs on the host; whoever may write its configs is. `value` is
 * what came with the workflow.
 */
function foreignScorer(value: unknown): ConfigIssue[] {
  if (!isRecord(value) || !isRecord(value.evaluate) || value.evaluate.scorer === undefined) return [];
  const path = 'evaluate.scorer';
  const message = `${path}: a program of the host is run only for a config file below the configs folder; put it there`;
  return [{ path, message }];
}

/** What of the config is right on its own, so that the checks across settings can say their part beside the schema's. */
function soundParts(value: unknown): SoundParts {
  const given = isRecord(value) ? value : {};
  const options = isRecord(given.train) ? Object.entries(given.train) : [];
  const sound = options.filter(([name, option]) => isOption(name) && optionSchema(name).safeParse(option).success);
  const train = Object.fromEntries(sound) as Partial<TrainOptions>;
  const { shape } = configSchema;
  const { data: model } = shape.model.safeParse(given.model);
  const { data: heldOut } = shape.heldOut.safeParse(given.heldOut);
  const { data: plan } = shape.plan.safeParse(given.plan);
  const { data: evaluate } = shape.evaluate.safeParse(given.evaluate);
  const { data: deploy } = shape.deploy.safeParse(given.deploy);
  return {
    train,
    ...(model === undefined ? {} : { model }),
    ...(heldOut === undefined ? {} : { heldOut }),
    ...(plan === undefined ? {} : { plan }),
    ...(evaluate === undefined ? {} : { evaluate }),
    ...(deploy === undefined ? {} : { deploy }),
  };
}

function findConfig(input: string, { configsFolder, root }: LoadOptions): string {
  const folder = followLinks(resolve(configsFolder));
  const names = isYaml(input) ? [input] : [`${input}.yaml`, `${input}.yml`];
  const below = names.map((name) => followLinks(resolve(configsFolder, name)));
  const candidates = [...below, ...names.map((name) => followLinks(resolve(root, name)))];
  const found = candidates.find((path) => isInside(path, folder) && existsSync(path) && statSync(path).isFile());
  if (found !== undefined) return found;
  if (below.some((path) => !isInside(path, folder))) {
    throw new ConfigError(input, [
      { path: '', message: `configs are read only from ${configsFolder}, and this leads out of it` },
    ]);
  }
  const known = listConfigs(configsFolder);
  const near = nearest(input.replace(/\.ya?ml$/, ''), known);
  const hint = near === undefined ? '' : ` did you mean ${near}?`;
  const message = `there is no such config in ${configsFolder};${hint} There are: ${known.join(', ') || 'none'}`;
  throw new ConfigError(input, [{ path: '', message }]);
}

/** The text of a config; ConfigError when it is none that can be read. */
export function readConfigFile(file: string, shown: string): string {
  if (statSync(file).size > MAX_CONFIG_BYTES) {
    throw new ConfigError(shown, [{ path: '', message: 'is larger than 1 MiB, which no config is' }]);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(file));
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const reason = code === 'ERR_ENCODING_INVALID_ENCODED_DATA' ? 'is not UTF-8 text' : `can't be read: ${message}`;
    throw new ConfigError(shown, [{ path: '', message: reason }], { cause });
  }
}

function nameOf(file: string, configsFolder: string): string {
  const folder = followLinks(resolve(configsFolder));
  const path = isInside(file, folder) ? relative(folder, file) : basename(file);
  return path.slice(0, -extname(path).length).split(sep).join('-');
}

/** By place in the file. */
export function inOrder(issues: ConfigIssue[]): ConfigIssue[] {
  const place = ({ line = 0, column = 0 }: ConfigIssue) => line * 1000 + column;
  return issues.toSorted((a, b) => place(a) - place(b));
}

function isYaml(path: string): boolean {
  return /\.ya?ml$/.test(path);
}

/** Whether it is a block of keys and values. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

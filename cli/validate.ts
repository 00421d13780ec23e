import { existsSync, realpathSync, statSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { optionArguments, validationArguments } from '../activities/validate-dataset.ts';
import { ConfigError, issueText, type ConfigIssue } from '../configs/config-error.ts';
import { loadPlain, type PlainYaml } from '../configs/load-plain.ts';
import { loadConfig, loadConfigFile } from '../configs/load.ts';
import { runPython } from '../host/python.ts';
import { loadOptions, type HostSettings } from '../host/settings.ts';
import { readJson } from '../host/state-file.ts';
import { readSettings } from '../workers/settings.ts';
import { progressLine } from './progress-line.ts';
import { inTemporaryRun } from './temporary-run.ts';

type Severity = 'error' | 'warning';

interface Problem {
  /** From 0 in `file`; null for what concerns no row alone. */
  row: number | null;
  code: string;
  severity: Severity;
  message: string;
  file?: string | null;
  field?: string | null;
}

interface Report {
  ok: boolean;
  rows: number;
  kept: number;
  problems: Problem[];
  tokens: unknown;
}

/** What to judge: the judge's arguments, or none when the rows can't be found; and what is said of the options already. */
interface Asked {
  args?: string[];
  /** Where LLaMA-Factory would be started. */
  cwd?: string;
  options: object;
  problems: Problem[];
}

const NOTHING: Report = { ok: false, rows: 0, kept: 0, problems: [], tokens: null };

/**
 * `temper validate CONFIG [--json]`: judge the dataset and, in a plain training YAML, the options. Exit code 0 when all is
 * well, 1 when only the dataset is bad, 2 when the config is, whatever the dataset is.
 */
export async function validate(name: string, { json }: { json?: boolean }): Promise<void> {
  const settings = readSettings();
  const asked = read(name, settings);
  if (asked instanceof ConfigError && json !== true) console.error(`ConfigError: ${asked.message}`);
  const report = asked instanceof ConfigError ? NOTHING : await judge(asked, settings, json === true);
  const config = asked instanceof ConfigError ? problemsOf(asked.source, asked.issues, 'error') : asked.problems;
  const missing = asked instanceof ConfigError ? [] : await missingPackages(asked.options, name);
  const ofConfig = [...config, ...missing];
  const isUsable = ofConfig.every(({ severity }) => severity !== 'error');
  const { rows, kept, tokens } = report;
  const [ok, problems] = [report.ok && isUsable, [...ofConfig, ...report.problems]];
  if (json) console.log(JSON.stringify({ ok, rows, kept, problems, tokens }, null, 2));
  else if (!(asked instanceof ConfigError)) print({ ok, rows, kept, problems, tokens });
  if (!ok) process.exitCode = isUsable ? 1 : 2;
}

function read(name: string, settings: HostSettings): Asked | ConfigError {
  const options = loadOptions(settings);
  const cache = ['--cache-dir', join(settings.home, 'cache/pictures')];
  try {
    const file = fileAt(name);
    const plain = file === undefined ? undefined : loadPlain(file, name, process.cwd());
    if (plain !== undefined) return askedOf(plain, name, cache);
    const config = file === undefined ? loadConfig(name, options) : loadConfigFile(realpathSync(file), options);
    const roots = ['--roots', settings.dataRoots.join(':')];
    const isFetched = existsSync(config.train.model_name_or_path);
    const args = [...validationArguments(config, isFetched ? undefined : null), ...['--held-out-fraction', '0']];
    const problems = isFetched ? [] : problemsOf(name, [notFetched], 'warning');
    return { args: [...args, ...roots, ...cache], options: config.train, problems };
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
}

const notFetched = { path: 'model', message: 'model: the base is not fetched yet, so tokens are not counted' };

/** The YAML or JSON file of this path, seen from the working directory; undefined for the name of a config. */
function fileAt(name: string): string | undefined {
  const path = resolve(name);
  if (!/\.(ya?ml|json)$/.test(name)) return undefined;
  if (statSync(path, { throwIfNoEntry: false })?.isFile() === true) return path;
  if (isAbsolute(name) || name.startsWith('.') || name.endsWith('.json'))
    throw new ConfigError(name, [{ path: '', message: 'there is no such file' }]);
  return undefined;
}

function askedOf({ train, issues, warnings, namesRows }: PlainYaml, source: string, cache: string[]): Asked {
  const problems = [...problemsOf(source, issues, 'error'), ...problemsOf(source, warnings, 'warning')];
  const asked = { cwd: process.cwd(), options: train, problems };
  if (!namesRows) return asked;
  const base = train.model_name_or_path;
  const model = base !== undefined && isAbsolute(base) && !issues.some(({ path }) => path === 'model_name_or_path');
  const named = { template: '', dataset: '', ...train } as typeof train;
  const args = [...optionArguments(named), ...(model ? ['--model', base] : []), '--held-out-fraction', '0', ...cache];
  return { ...asked, args };
}

async function judge({ args, cwd }: Asked, settings: HostSettings, quiet: boolean): Promise<Report> {
  if (args === undefined) return NOTHING;
  return inTemporaryRun(async (home) => {
    const out = join(home, 'dataset');
    const options = { ...(quiet ? {} : { onProgress: progressLine('rows') }), ...(cwd === undefined ? {} : { cwd }) };
    const outcome = await runPython('trainer/validate_dataset.py', [...args, '--out', out], options).catch(
      (error: unknown) => error as Error,
    );
    const report = await readJson<Report>(join(out, 'report.json'));
    if (report === undefined) throw outcome;
    return report;
  });
}

/** Packages that the options need and the trainer's Python lacks; without a reporter's, training dies after loading the base. */
async function missingPackages(options: object, source: string): Promise<Problem[]> {
  const { items } = await runPython<{ items: { needed: string; name: string; fix: string; reports: boolean }[] }>(
    'trainer/check_packages.py',
    ['--options', JSON.stringify(options)],
  );
  return items.map(({ name, needed, fix, reports }) => ({
    row: null,
    code: 'package-missing',
    severity: reports ? 'error' : 'warning',
    message: `${source}: ${name} is not installed in trainer/.venv; it must be ${needed}. ${fix}`,
    file: source,
    ...(reports ? { field: 'report_to' } : {}),
  }));
}

function problemsOf(source: string, issues: readonly ConfigIssue[], severity: Severity): Problem[] {
  return issues.map((issue) => ({
    row: null,
    code: 'config',
    severity,
    message: issueText(source, issue),
    file: source,
    field: issue.path === '' ? null : issue.path,
  }));
}

function print({ rows, kept, problems }: Report): void {
  for (const { row, severity, message } of problems)
    console.log(`${severity === 'error' ? 'ERROR  ' : 'warning'}  ${row === null ? '' : `row ${row}: `}${message}`);
  console.log(`${rows} rows, ${kept} good, ${problems.length} problems`);
}

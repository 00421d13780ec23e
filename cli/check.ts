import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspectHost } from '../activities/check-environment.ts';
import { validationArguments } from '../activities/validate-dataset.ts';
import { loadConfig } from '../configs/load.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import { checkout } from '../host/checkout.ts';
import { errorNameOf, messageOf } from '../host/errors.ts';
import { runPython } from '../host/python.ts';
import { openRunDirectory } from '../host/run-directory.ts';
import { readJson } from '../host/state-file.ts';
import { readSettings } from '../workers/settings.ts';
import { progressLine } from './progress-line.ts';

/** `temper doctor [CONFIG]`: check this host for a config; exit code 1 when a run would be refused. */
export async function doctor(name: string, { json }: { json?: boolean }): Promise<void> {
  const settings = readSettings();
  const config = readConfig(name);
  await inTemporaryRun(async (home) => {
    const { items } = await inspectHost(config, openRunDirectory(home, 'doctor'), settings.home, { mayFetch: false });
    if (json) console.log(JSON.stringify({ ok: items.every(({ verdict }) => verdict !== 'error'), items }, null, 2));
    const marks = { ok: 'ok     ', warning: 'warning', error: 'ERROR  ' };
    for (const { name: item, found, needed, verdict, fix } of json ? [] : items) {
      console.log(`${marks[verdict]}  ${item}: ${found}`);
      if (verdict !== 'ok')
        console.log(`         needed: ${needed}${fix === undefined ? '' : `\n         fix:    ${fix}`}`);
    }
    if (items.some(({ verdict }) => verdict === 'error')) process.exitCode = 1;
  });
}

interface DatasetReport {
  ok: boolean;
  rows: number;
  kept: number;
  problems: { row: number | null; code: string; severity: 'error' | 'warning'; message: string; file?: string }[];
  tokens: unknown;
}

/** `temper validate CONFIG [--json]`: judge the dataset; exit code 0 when ok, 1 when not, 2 for a config that can't be used. */
export async function validate(name: string, { json }: { json?: boolean }): Promise<void> {
  const settings = readSettings();
  const config = readConfig(name);
  const isFetched = existsSync(config.train.model_name_or_path);
  if (!isFetched) console.error('The base is not fetched yet, so tokens are not counted.');
  await inTemporaryRun(async (home) => {
    const out = join(home, 'dataset');
    const args = [
      ...[
        ...validationArguments(config, isFetched ? undefined : null),
        '--held-out-fraction',
        '0',
        '--roots',
        settings.dataRoots.join(':'),
      ],
      ...['--cache-dir', join(settings.home, 'cache/pictures'), '--out', out],
    ];
    const outcome = await runPython(
      'trainer/validate_dataset.py',
      args,
      json ? {} : { onProgress: progressLine('rows') },
    ).catch((error: unknown) => error as Error);
    const report = await readJson<DatasetReport>(join(out, 'report.json'));
    if (report === undefined) throw outcome;
    const { ok, rows, kept, problems, tokens } = report;
    if (json) console.log(JSON.stringify({ ok, rows, kept, problems, tokens }, null, 2));
    else {
      for (const { row, severity, message } of problems)
        console.log(`${severity === 'error' ? 'ERROR  ' : 'warning'}  ${row === null ? '' : `row ${row}: `}${message}`);
      console.log(`${rows} rows, ${kept} good, ${problems.length} problems`);
    }
    if (!ok) process.exitCode = 1;
  });
}

function readConfig(name: string): ResolvedConfig {
  const { configsFolder, dataRoots, modelsRoot } = readSettings();
  try {
    return loadConfig(name, { configsFolder, root: checkout, allowedRoots: dataRoots, modelsRoot });
  } catch (error) {
    console.error(`${errorNameOf(error)}: ${messageOf(error)}`);
    process.exit(2);
  }
}

async function inTemporaryRun(work: (home: string) => Promise<void>): Promise<void> {
  const home = await mkdtemp(join(tmpdir(), 'temper-check-'));
  try {
    await work(home);
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { TemperError } from '../host/errors.ts';
import { writeReport } from '../host/report/render-report.ts';
import { runDirectory, runsIn } from '../host/run-directory.ts';
import { readSettings } from '../workers/settings.ts';
import { openInBrowser } from './open-in-browser.ts';

interface ReportOptions {
  out?: string;
  open?: boolean;
  json?: boolean;
}

/** Runs that an error names. */
const MOST_NAMED = 10;

/** `temper report RUN`: write its page from its directory as it is now, whatever became of the run. */
export async function report(runName: string, { out, open, json }: ReportOptions): Promise<void> {
  const { home } = readSettings();
  const run = runDirectory(home, runName);
  if (!existsSync(run.path)) throw new TemperError('ConfigError', await notHere(home, runName));
  const path = out === undefined ? run.report : resolve(out);
  await writeReport(run, path);
  console.log(json === true ? JSON.stringify({ run: runName, path }) : path);
  if (open === true) await openInBrowser(path);
}

async function notHere(home: string, runName: string): Promise<string> {
  const names = await runsIn(home);
  const some = names.slice(0, MOST_NAMED).join(', ');
  const more = names.length > MOST_NAMED ? ` and ${names.length - MOST_NAMED} more` : '';
  const here = names.length === 0 ? 'no run at all' : `${some}${more}`;
  return `There is no run ${runName} in ${join(home, 'runs')}, which has ${here}. A run's directory lies on the host that trains it: \`npx temper runs\` lists them.`;
}

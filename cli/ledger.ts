import { join } from 'node:path';
import { TemperError } from '../host/errors.ts';
import { causes, type Cause } from '../host/goodput/account.ts';
import { readGoodput, type RunGoodput } from '../host/goodput/run-goodput.ts';
import { startUpParts } from '../host/goodput/start-ups.ts';
import { causeNames, partNames, percent, secondsText, startUpRows, sumOf } from '../host/goodput/text.ts';
import { runDirectory, runsIn } from '../host/run-directory.ts';
import { readSettings } from '../workers/settings.ts';
import { columns } from './columns.ts';

/** `temper ledger [RUN]`: where the time of trainings went; of a run that trains, up to now. */
export async function ledger(runName: string | undefined, { json }: { json?: boolean }): Promise<void> {
  const { home } = readSettings();
  const names = await runsIn(home);
  if (runName !== undefined && !names.includes(runName))
    throw new TemperError(
      'ConfigError',
      `There is no run ${runName} in ${join(home, 'runs')}; \`temper ledger\` lists them.`,
    );
  const runs: Record<string, RunGoodput> = {};
  for (const name of runName === undefined ? names : [runName]) {
    const goodput = await readGoodput(runDirectory(home, name));
    if (goodput !== undefined) runs[name] = goodput;
  }
  if (json) return console.log(JSON.stringify(withoutSteps(runs), null, 2));
  if (Object.keys(runs).length === 0)
    return console.log(runName === undefined ? 'Nothing has been trained here.' : `${runName} has not trained yet.`);
  const goodput = runName === undefined ? undefined : runs[runName];
  for (const line of goodput === undefined ? allRuns(runs) : oneRun(runName ?? '', goodput)) console.log(line);
}

function oneRun(name: string, goodput: RunGoodput): string[] {
  const { seconds, wallSeconds, state, startUps, steps, repeatedSteps } = goodput;
  const byCause = causes.map((cause) => [
    causeNames[cause],
    secondsText(seconds[cause]),
    percent(wallSeconds > 0 ? seconds[cause] / wallSeconds : null),
  ]);
  const speed = [
    goodput.device ?? '',
    goodput.tokensPerSecond === undefined ? '' : `${goodput.tokensPerSecond.toFixed(0)} tokens/s`,
    `MFU ${percent(goodput.mfu)}`,
  ];
  return [
    `${name}  ${state}  ${steps.length} steps, ${repeatedSteps} repeated  ${speed.filter((part) => part !== '').join('  ')}`,
    '',
    ...columns([
      ['where the time went', 'seconds', 'share'],
      ...byCause,
      ['all', secondsText(wallSeconds), percent(1)],
    ]),
    '',
    ...columns([
      ['until the first step', 'seconds', ...startUpParts.map((part) => partNames[part])],
      ...startUpRows(startUps),
    ]),
  ];
}

function allRuns(runs: Record<string, RunGoodput>): string[] {
  const row = (name: string, state: string, goodput: Pick<RunGoodput, 'seconds' | 'wallSeconds'>, mfu?: number) => [
    ...[name, state, secondsText(goodput.wallSeconds)],
    percent(goodput.wallSeconds > 0 ? goodput.seconds.productive / goodput.wallSeconds : null),
    ...causes.map((cause) => secondsText(goodput.seconds[cause])),
    percent(mfu),
  ];
  const head = ['run', 'state', 'seconds', 'goodput', ...causes.map((cause: Cause) => causeNames[cause]), 'MFU'];
  const rows = Object.entries(runs).map(([name, goodput]) => row(name, goodput.state, goodput, goodput.mfu));
  return columns([head, ...rows, row('all', '', sumOf(Object.values(runs)))]);
}

function withoutSteps(runs: Record<string, RunGoodput>): object {
  const shown = Object.entries(runs).map(([name, { steps, ...goodput }]) => [
    name,
    { ...goodput, steps: steps.length },
  ]);
  return { runs: Object.fromEntries(shown) as object, total: sumOf(Object.values(runs)) };
}

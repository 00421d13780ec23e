import { join } from 'node:path';
import { inspectHost } from '../activities/check-environment.ts';
import { loadConfig } from '../configs/load.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import { errorNameOf, messageOf } from '../host/errors.ts';
import { openRunDirectory } from '../host/run-directory.ts';
import { loadOptions, type HostSettings } from '../host/settings.ts';
import { readSettings } from '../workers/settings.ts';
import { changesOf } from './changes-of.ts';
import { inTemporaryRun } from './temporary-run.ts';

/** `temper doctor [CONFIG]`: check this host for a config; exit code 1 when a run would be refused. */
export async function doctor(name: string, { json, set }: { json?: boolean; set: string[] }): Promise<void> {
  const settings = readSettings();
  const config = readConfig(name, settings, set);
  await inTemporaryRun(async (home) => {
    const { items } = await inspectHost(config, openRunDirectory(home, 'doctor'), settings.home, {
      mayFetch: false,
      room: join(settings.home, 'runs', 'doctor'),
      notify: settings.notify,
    });
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

function readConfig(name: string, settings: HostSettings, set: string[]): ResolvedConfig {
  try {
    return loadConfig(name, loadOptions(settings), changesOf(set));
  } catch (error) {
    console.error(`${errorNameOf(error)}: ${messageOf(error)}`);
    process.exit(2);
  }
}

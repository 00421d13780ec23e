import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { checkout } from '../checkout.ts';

export interface HaproxyProgram {
  file: string;
  /** What it has to be started with besides the worker's environment. */
  env: Record<string, string>;
}

/** Where scripts/haproxy.mjs puts the distribution's packages, and copies of their libraries. */
const extracted = join(checkout, '.setup/haproxy');

/** HAProxy of the host, else the one that setup has fetched; undefined when there is neither. */
export function findHaproxy(): HaproxyProgram | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter).filter(Boolean), '/usr/sbin', '/usr/local/sbin'];
  const installed = folders.map((folder) => join(folder, 'haproxy')).find(isProgram);
  if (installed !== undefined) return { file: installed, env: {} };
  const file = join(extracted, 'root/usr/sbin/haproxy');
  if (!isProgram(file)) return undefined;
  const libraries = [join(extracted, 'lib'), process.env.LD_LIBRARY_PATH].filter(Boolean).join(delimiter);
  return { file, env: { LD_LIBRARY_PATH: libraries } };
}

function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

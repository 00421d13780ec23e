import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { notifyEntry, notifyFormats, type NotifyEntry } from '../configs/notify-schema.ts';
import { checkout } from '../host/checkout.ts';
import type { HostSettings } from '../host/settings.ts';
import { TemperError } from '../host/errors.ts';

/**
 * This host's settings from its environment: TEMPER_HOME (default `.temper` in the checkout), TEMPER_CONFIGS (default
 * `configs`), TEMPER_MODELS (default `models` in TEMPER_HOME), TEMPER_DATA_ROOTS (folders with `:` between, default the checkout,
 * TEMPER_HOME and /data; TEMPER_HOME and TEMPER_MODELS are always among them), TEMPER_GPU_SLOTS (1),
 * TEMPER_HOST_NAME (default this machine's name; each host has another), TEMPER_NOTIFY_URL with TEMPER_NOTIFY_FORMAT (json) and
 * TEMPER_NOTIFY_SECRET (who is told of runs whose config has no `notify`).
 * A variable that is set to nothing counts as not set.
 */
export function readSettings(env: NodeJS.ProcessEnv = process.env): HostSettings {
  const home = resolve(env.TEMPER_HOME || join(checkout, '.temper'));
  const models = env.TEMPER_MODELS ? [resolve(env.TEMPER_MODELS)] : [];
  const roots = (env.TEMPER_DATA_ROOTS || undefined)
    ?.split(':')
    .filter((root) => root !== '')
    .map((root) => resolve(root));
  return {
    home,
    configsFolder: resolve(env.TEMPER_CONFIGS || join(checkout, 'configs')),
    modelsRoot: models[0] ?? join(home, 'models'),
    dataRoots: roots === undefined ? [checkout, ...models, home, '/data'] : [...models, ...roots, home],
    hostName: hostName(env.TEMPER_HOST_NAME || hostname()),
    gpuSlots: positiveInteger('TEMPER_GPU_SLOTS', env.TEMPER_GPU_SLOTS || '1'),
    ...(env.TEMPER_NOTIFY_URL ? { notify: notifyByDefault(env) } : {}),
  };
}

function notifyByDefault({
  TEMPER_NOTIFY_FORMAT: format,
  TEMPER_NOTIFY_SECRET: secret,
}: NodeJS.ProcessEnv): NotifyEntry {
  const { data, error } = notifyEntry.safeParse({
    ...{ format: format || 'json', urlEnv: 'TEMPER_NOTIFY_URL' },
    ...(secret ? { secretEnv: 'TEMPER_NOTIFY_SECRET' } : {}),
  });
  if (error === undefined) return data;
  if (error.issues.some(({ path }) => path[0] === 'secretEnv'))
    throw new TemperError('ConfigError', `TEMPER_NOTIFY_SECRET is set, and ${format} signs nothing: leave it out.`);
  throw new TemperError(
    'ConfigError',
    `TEMPER_NOTIFY_FORMAT is ${JSON.stringify(format)}; it takes ${notifyFormats.join(', ')}.`,
  );
}

function hostName(value: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(value)) return value;
  throw new TemperError(
    'ConfigError',
    `TEMPER_HOST_NAME is ${JSON.stringify(value)}; it takes 1 to 63 letters, digits and . _ -, beginning with a letter or digit.`,
  );
}

function positiveInteger(name: string, value: string): number {
  if (/^[1-9]\d{0,2}$/.test(value)) return Number(value);
  throw new TemperError('ConfigError', `${name} is ${JSON.stringify(value)}; it must be a whole number from 1.`);
}

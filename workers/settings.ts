import { join, resolve } from 'node:path';
import { checkout } from '../host/checkout.ts';
import type { HostSettings } from '../host/settings.ts';
import { TemperError } from '../host/errors.ts';

/**
 * This host's settings from its environment: TEMPER_HOME (default `.temper` in the checkout), TEMPER_CONFIGS (default
 * `configs`), TEMPER_MODELS (default `models` in TEMPER_HOME), TEMPER_DATA_ROOTS (folders with `:` between, default the checkout,
 * TEMPER_HOME and /data; TEMPER_HOME and TEMPER_MODELS are always among them), TEMPER_GPU_SLOTS (1).
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
    gpuSlots: positiveInteger('TEMPER_GPU_SLOTS', env.TEMPER_GPU_SLOTS || '1'),
  };
}

function positiveInteger(name: string, value: string): number {
  if (/^[1-9]\d{0,2}$/.test(value)) return Number(value);
  throw new TemperError('ConfigError', `${name} is ${JSON.stringify(value)}; it must be a whole number from 1.`);
}

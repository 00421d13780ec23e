import { describe, expect, test } from '@jest/globals';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { readSettings } from '../../workers/settings.ts';

const defaults = {
  home: join(checkout, '.temper'),
  configsFolder: join(checkout, 'configs'),
  modelsRoot: join(checkout, '.temper/models'),
  dataRoots: [checkout, join(checkout, '.temper'), '/data'],
  hostName: hostname(),
  gpuSlots: 1,
};

test('a host that says nothing gets settings that work', () => {
  expect(readSettings({})).toEqual(defaults);
});

test('a variable set to nothing, as in an .env file, counts as not set', () => {
  expect(
    readSettings({
      TEMPER_HOME: '',
      TEMPER_CONFIGS: '',
      TEMPER_MODELS: '',
      TEMPER_DATA_ROOTS: '',
      TEMPER_GPU_SLOTS: '',
    }),
  ).toEqual(defaults);
});

describe('what a host says is taken', () => {
  test.each<[string, NodeJS.ProcessEnv, object]>([
    [
      'its home',
      { TEMPER_HOME: '/srv/temper' },
      { home: '/srv/temper', dataRoots: [checkout, '/srv/temper', '/data'] },
    ],
    ['a home relative to where it is started', { TEMPER_HOME: 'here' }, { home: join(process.cwd(), 'here') }],
    ['its configs', { TEMPER_CONFIGS: '/etc/temper' }, { configsFolder: '/etc/temper' }],
    [
      'where it fetches bases to, which may then be read',
      { TEMPER_MODELS: '/models' },
      { modelsRoot: '/models', dataRoots: expect.arrayContaining(['/models']) },
    ],
    ['its name', { TEMPER_HOST_NAME: 'gpu-1' }, { hostName: 'gpu-1' }],
    ['its slots', { TEMPER_GPU_SLOTS: '4' }, { gpuSlots: 4 }],
  ])('%s', (_, env, settings) => {
    expect(readSettings(env)).toMatchObject(settings);
  });
});

test('data roots that are given replace the defaults, but the home is always one', () => {
  const { dataRoots } = readSettings({ TEMPER_HOME: '/home', TEMPER_DATA_ROOTS: '/models::/data/../rows' });
  expect(dataRoots).toEqual(['/models', '/rows', '/home']);
  expect(readSettings({ TEMPER_DATA_ROOTS: '/rows', TEMPER_MODELS: '/models' }).dataRoots).toContain('/models');
});

describe('slots that are no whole number from 1 are refused by name', () => {
  test.each(['0', '-1', '1.5', 'two', '1e3', ' 1'])('%j', (value) => {
    const read = () => readSettings({ TEMPER_GPU_SLOTS: value });
    expect(read).toThrow(expect.objectContaining({ name: 'ConfigError' }));
    expect(read).toThrow(`TEMPER_GPU_SLOTS is ${JSON.stringify(value)}`);
  });
});

import { expect, test } from '@jest/globals';
import { join } from 'node:path';
import { parse } from 'yaml';
import { readFileSync } from 'node:fs';
import { loadConfig } from '../../activities/load-config.ts';
import type { StageContext } from '../../activities/stage.ts';
import type { NotifyEntry } from '../../configs/notify-schema.ts';
import { checkout } from '../../host/checkout.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { readSettings } from '../../workers/settings.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

const demo = parse(readFileSync(join(checkout, 'configs/demo.yaml'), 'utf8')) as Record<string, unknown>;
const hook = { format: 'slack', urlEnv: 'TEAM_HOOK' } as const;

test('who is told of a run makes no other run of it', async () => {
  const [plain, told] = [await load(demo), await load({ ...demo, notify: [hook] })];
  expect(told.configDigest).toBe(plain.configDigest);
});

test.each<[string, Record<string, unknown>, NodeJS.ProcessEnv, Partial<NotifyEntry>[]]>([
  ["the config's receivers", { notify: [hook] }, { TEMPER_NOTIFY_URL: 'https://a.b' }, [hook]],
  [
    "the host's, where the config names none",
    {},
    { TEMPER_NOTIFY_URL: 'https://a.b' },
    [{ format: 'json', urlEnv: 'TEMPER_NOTIFY_URL' }],
  ],
  ['nobody, where the config wants that', { notify: [] }, { TEMPER_NOTIFY_URL: 'https://a.b' }, []],
  ['nobody, where nothing is said', {}, { TEMPER_NOTIFY_URL: '' }, []],
])('told is %s', async (_, changes, env, expected) => {
  const { notify } = await load({ ...demo, ...changes }, env);
  expect(notify).toMatchObject(expected);
  expect(notify).toHaveLength(expected.length);
  for (const { on } of notify ?? []) expect(on).not.toContain('unchanged');
});

test.each([
  [{ TEMPER_NOTIFY_FORMAT: 'slak' }, 'TEMPER_NOTIFY_FORMAT is "slak"; it takes json, slack'],
  [{ TEMPER_NOTIFY_FORMAT: 'wecom', TEMPER_NOTIFY_SECRET: 'x' }, 'wecom signs nothing'],
])('a worker does not start with %j', (env, words) => {
  expect(() => readSettings({ TEMPER_NOTIFY_URL: 'https://a.b', ...env })).toThrow(words);
});

function load(config: Record<string, unknown>, env: NodeJS.ProcessEnv = {}) {
  const home = newFolder();
  const settings = readSettings({ ...env, TEMPER_HOME: home });
  const context = { settings, run: openRunDirectory(home, 'run'), runName: 'run' } as StageContext;
  return loadConfig({ config }, context);
}

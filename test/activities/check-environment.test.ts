import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkEnvironment, inspectHost } from '../../activities/check-environment.ts';
import { loadConfig } from '../../configs/load.ts';
import type { ResolvedConfig } from '../../configs/schema.ts';
import type { CheckItem } from '../../host/check-item.ts';
import { checkout } from '../../host/checkout.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { settingsOf } from '../support/settings.ts';

jest.setTimeout(300_000);

const WEIGHTS = 123_456;
let home = '';
let hub: Server;
let asked: string[] = [];
let before: string | undefined;

/** A hub that lists a model and gives none of its files. */
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'temper-environment-'));
  hub = createServer((request, response) => {
    asked.push(request.url ?? '');
    const isListing = request.url?.startsWith('/api/models/org/tiny/') === true;
    const siblings = [{ rfilename: 'model.safetensors', size: WEIGHTS, blobId: 'a', lfs: undefined }];
    response.writeHead(isListing ? 200 : 401, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ id: 'org/tiny', sha: 'c0ffee', siblings }));
  });
  await new Promise<void>((listening) => hub.listen(0, '127.0.0.1', listening));
  before = process.env.HF_ENDPOINT;
  process.env.HF_ENDPOINT = `http://127.0.0.1:${(hub.address() as AddressInfo).port}`;
});

afterAll(async () => {
  if (before === undefined) delete process.env.HF_ENDPOINT;
  else process.env.HF_ENDPOINT = before;
  hub.close();
  await rm(home, { recursive: true, force: true });
});

function configOf(folder: string): ResolvedConfig {
  return loadConfig(
    {
      model: { source: 'hf:org/tiny' },
      train: {
        model_name_or_path: join(home, folder),
        dataset: 'cards',
        dataset_dir: join(checkout, 'demo'),
        template: 'qwen3_vl_nothink',
        use_cpu: true,
      },
      deploy: { enabled: false },
    },
    { configsFolder: '', root: checkout, allowedRoots: [checkout, home], modelsRoot: home },
  );
}

function check(config: ResolvedConfig) {
  const settings = settingsOf(home, { modelsRoot: home, dataRoots: [home] });
  const reports: Record<string, unknown>[] = [];
  const context = {
    settings,
    runName: 'first',
    executionId: 'execution',
    run: openRunDirectory(home, 'first'),
    signal: new AbortController().signal,
    attempt: 1,
    owner: 'test',
    report: (details: Record<string, unknown>) => void reports.push(details),
  };
  return { reports, result: checkEnvironment({ config }, context) };
}

async function doctor(config: ResolvedConfig): Promise<CheckItem[]> {
  const { items } = await inspectHost(config, openRunDirectory(home, 'doctor'), home, { mayFetch: false });
  return items.filter(({ name }) => name.startsWith('base '));
}

test('a run fetches first, its progress goes into the heartbeat, and a refusal of the hub is the run’s error', async () => {
  const { reports, result } = check(configOf('fetched'));
  await expect(result).rejects.toMatchObject({ name: 'HostError', message: expect.stringContaining('HF_TOKEN') });
  expect(asked.some((url) => url.endsWith('/resolve/c0ffee/model.safetensors'))).toBe(true);
  expect(reports[0]).toMatchObject({ done: 0, total: WEIGHTS, unit: 'bytes', message: 'hf:org/tiny' });
});

test('the doctor only says what would come, and looks at nothing else of the base', async () => {
  asked = [];
  expect(await doctor(configOf('absent'))).toEqual([
    expect.objectContaining({
      name: 'base folder',
      verdict: 'warning',
      found: expect.stringMatching(/^not fetched yet: .* from hf:org\/tiny into .*\/absent$/),
    }),
  ]);
  expect(asked.filter((url) => url.includes('resolve'))).toEqual([]);
});

test('a base that is there is used without a word to the hub', async () => {
  await cp(join(checkout, 'demo/tiny-qwen3-vl'), join(home, 'there'), { recursive: true });
  asked = [];
  const { result } = check(configOf('there'));
  expect(await result).toMatchObject({ precision: 'bf16' });
  expect(asked).toEqual([]);
  const { items } = JSON.parse(await readFile(openRunDirectory(home, 'first').environment, 'utf8')) as {
    items: CheckItem[];
  };
  expect(items.find(({ name }) => name === 'base folder')).toMatchObject({
    verdict: 'ok',
    found: expect.stringContaining('used as it is'),
  });
});

import { expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadConfig } from '../../../configs/load.ts';
import type { ResolvedConfig } from '../../../configs/schema.ts';
import { checkout } from '../../../host/checkout.ts';
import { servingItems } from '../../../host/deployment/serving-check.ts';
import { standInPrograms } from '../../support/programs.ts';

const programs = standInPrograms();

/** A stand-in for the docker command: what it answers to `info`, `image inspect` and `run`. */
function docker(answers: { info?: string; image?: string; run?: string }): void {
  const answer = (text: string | undefined) =>
    text === undefined ? 'echo "Error: not there" >&2; exit 1' : `printf '%s\\n' '${text}'`;
  const script = [
    `#!/bin/sh\necho "$@" >> ${programs.folder}/calls`,
    `case "$1" in`,
    `info) ${answer(answers.info)};;`,
    `image) ${answer(answers.image)};;`,
    `run) ${answer(answers.run)};;`,
    'esac\n',
  ];
  programs.put('docker', script.join('\n'));
}

function packages(transformers: string): string {
  return JSON.stringify({ transformers, vllm: null });
}

function config(deploy: Record<string, unknown>, train: Record<string, unknown> = {}): ResolvedConfig {
  const options = {
    configsFolder: join(checkout, 'configs'),
    root: checkout,
    allowedRoots: [checkout],
    modelsRoot: programs.folder,
  };
  const demo = loadConfig('demo', options);
  return {
    ...demo,
    train: { ...demo.train, ...train },
    deploy: { ...demo.deploy, runtime: 'docker', apiPort: 0, pagePort: 0, ...deploy },
  };
}

const NVIDIA = '{"ServerVersion":"27.1.0","Runtimes":{"runc":{},"nvidia":{}}}';
const PLAIN = '{"ServerVersion":"27.1.0","Runtimes":{"runc":{}}}';

async function verdicts(of: ResolvedConfig, hasGpu = true): Promise<string[][]> {
  const items = await servingItems(of, hasGpu, programs.folder);
  return items.map(({ name, found, verdict, fix }) => [
    name,
    verdict,
    `${found}${fix === undefined ? '' : ` → ${fix}`}`,
  ]);
}

test('an engine with GPUs and an image that loads what Temper exports is all that is needed', async () => {
  docker({ info: NVIDIA, image: 'sha256:1', run: packages('5.6.0') });
  expect(await verdicts(config({}, { use_cpu: false }))).toEqual([
    ['Docker engine', 'ok', '27.1.0'],
    ['GPUs in containers', 'ok', 'the NVIDIA runtime is there'],
    ['serving image', 'ok', 'qwen3-vl-webui:latest with transformers 5.6.0'],
  ]);
});

test('an image is asked once', async () => {
  docker({ info: PLAIN, image: 'sha256:1', run: packages('4.57.6') });
  for (let times = 0; times < 2; times++) expect((await verdicts(config({}))).at(-1)?.[1]).toBe('ok');
  expect(readFileSync(join(programs.folder, 'calls'), 'utf8').match(/^run /gm)).toHaveLength(1);
});

test.each([
  [{}, 'Docker engine', 'not there'],
  [
    { info: '{"ServerVersion":"","ServerErrors":["permission denied on /var/run/docker.sock"]}' },
    'Docker engine',
    'permission denied',
  ],
  [{ info: PLAIN, image: 'sha256:1', run: packages('5.6.0') }, 'GPUs in containers', 'nvidia-ctk runtime configure'],
  [{ info: NVIDIA }, 'serving image', 'docker build -f serving/Dockerfile -t qwen3-vl-webui:latest .'],
  [{ info: NVIDIA, image: 'sha256:1', run: packages('4.49.0') }, 'serving image', 'with transformers 4.49.0'],
  [{ info: NVIDIA, image: 'sha256:1' }, 'serving image', 'docker run failed'],
])('%j is refused by %s, which says %s', async (answers, name, words) => {
  docker(answers);
  const refused = (await verdicts(config({}, { use_cpu: false }))).filter(([, verdict]) => verdict === 'error');
  expect(refused.map(([item]) => item)).toEqual([name]);
  expect(refused[0]?.[2]).toContain(words);
});

test('a CPU needs no GPU runtime', async () => {
  docker({ info: PLAIN, image: 'sha256:1', run: packages('5.6.0') });
  expect((await verdicts(config({}, { use_cpu: true }))).map(([name]) => name)).toEqual([
    'Docker engine',
    'serving image',
  ]);
  expect((await verdicts(config({}, { use_cpu: false }), false)).map(([name]) => name)).toEqual([
    'Docker engine',
    'serving image',
  ]);
});

test('without the docker command, and with nothing to deploy', async () => {
  process.env.PATH = programs.folder;
  expect((await verdicts(config({})))[0]?.slice(0, 2)).toEqual(['Docker engine', 'error']);
  expect(await verdicts(config({ enabled: false }))).toEqual([]);
  expect((await verdicts(config({ runtime: 'process' })))[0]?.slice(0, 2)).toEqual(['HAProxy', 'ok']);
});

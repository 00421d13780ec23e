import { expect, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { loadConfig } from '../../../configs/load.ts';
import type { ResolvedConfig } from '../../../configs/schema.ts';
import { checkout, vllmPython } from '../../../host/checkout.ts';
import { chooseBackend } from '../../../host/deployment/backend.ts';
import { servingFlags, servingOptions } from '../../../host/deployment/serving-options.ts';
import type { Gpu } from '../../../host/gpus.ts';
import { standInPrograms } from '../../support/programs.ts';

const programs = standInPrograms();

/** A stand-in for the docker command whose image has this vLLM. */
function imageWith(vllm: string | null): void {
  const answer = JSON.stringify({ transformers: '4.57.6', vllm });
  const script = `#!/bin/sh\ncase "$1" in\nimage) echo sha256:1;;\nrun) echo '${answer}';;\nesac\n`;
  programs.put('docker', script);
}

function config(deploy: Partial<ResolvedConfig['deploy']>): ResolvedConfig {
  const roots = { configsFolder: join(checkout, 'configs'), root: checkout, allowedRoots: [checkout] };
  const demo = loadConfig('demo', { ...roots, modelsRoot: programs.folder });
  return { ...demo, deploy: { ...demo.deploy, runtime: 'docker', ...deploy } };
}

function gpu(name: string, computeCapability: number): Gpu {
  const gib = 1024 ** 3;
  return {
    ...{ index: 0, name, computeCapability, driverVersion: '570', holders: [] },
    ...{ totalMemoryBytes: 80 * gib, freeMemoryBytes: 80 * gib },
  };
}

const A100 = gpu('A100', 8);
const T4 = gpu('T4', 7.5);
const V100 = gpu('V100', 7);
const P100 = gpu('P100', 6);

test.each([
  ['0.11.0', [A100], 'vllm', 'auto: vLLM is installed'],
  [null, [A100], 'huggingface', 'has no vLLM'],
  ['0.11.0', [V100], 'huggingface', 'V100, compute capability 7.0'],
  ['0.11.0', [T4], 'huggingface', 'T4, compute capability 7.5'],
  ['0.11.0', [P100, A100], 'huggingface', 'P100, compute capability 6.0'],
  ['0.11.0', [], 'huggingface', 'no GPU'],
])('auto, vLLM %s, %j: %s', async (vllm, gpus, backend, words) => {
  imageWith(vllm);
  const chosen = await chooseBackend(config({}), gpus, programs.folder);
  expect(chosen).toMatchObject({ backend, item: { verdict: 'ok', found: expect.stringContaining(words) } });
});

test.each([
  [A100, 'ok', 'deploy.backend: vllm'],
  [T4, 'warning', 'T4, compute capability 7.5'],
  [V100, 'warning', 'V100, compute capability 7.0'],
])('asked for, it serves on %j', async (on, verdict, words) => {
  imageWith('0.11.0');
  const chosen = await chooseBackend(config({ backend: 'vllm' }), [on], programs.folder);
  expect(chosen).toMatchObject({ backend: 'vllm', item: { verdict, found: expect.stringContaining(words) } });
});

test.each([
  ['0.11.0', [P100], 'P100, compute capability 6.0', 'set deploy.backend: huggingface'],
  ['0.11.0', [], 'no GPU to serve on', 'set deploy.backend: huggingface'],
  [null, [A100], 'has no vLLM', '--build-arg BACKEND=vllm'],
])('asked for and impossible: vLLM %s, %j', async (vllm, gpus, found, fix) => {
  imageWith(vllm);
  const { item } = await chooseBackend(config({ backend: 'vllm' }), gpus, programs.folder);
  expect(item).toMatchObject({ verdict: 'error', needed: expect.stringContaining('deploy.backend: vllm') });
  expect(item.found).toContain(found);
  expect(item.fix).toContain(fix);
});

test('a process is served by the environment of its own', async () => {
  const { item } = await chooseBackend(config({ backend: 'vllm', runtime: 'process' }), [A100], programs.folder);
  const expected = existsSync(vllmPython) ? { verdict: 'ok' } : { fix: expect.stringContaining('npm run setup:vllm') };
  expect(item).toMatchObject(expected);
});

test('huggingface is what it is, whatever there is', async () => {
  imageWith('0.11.0');
  expect((await chooseBackend(config({ backend: 'huggingface' }), [A100], programs.folder)).backend).toBe(
    'huggingface',
  );
});

test('the server is told of vLLM and its share, and of nothing new without', () => {
  const of = config({ gpuMemoryShare: 0.4 });
  expect(servingFlags(servingOptions(of, 'vllm')).slice(0, 4)).toEqual([
    ...['--backend', 'vllm', '--gpu-memory-share', '0.4'],
  ]);
  expect(servingFlags(servingOptions(of, 'huggingface'))).not.toContain('--backend');
  expect(servingOptions(of, 'huggingface')).toEqual(servingOptions(of));
});

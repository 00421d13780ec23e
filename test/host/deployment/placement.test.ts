import { expect, test } from '@jest/globals';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Deployment } from '../../../host/deployment/deployments.ts';
import { choosePlacement, type Placement } from '../../../host/deployment/placement.ts';
import type { ServingOptions } from '../../../host/deployment/serving-options.ts';
import { standInPrograms } from '../../support/programs.ts';

const vllm: ServingOptions = { template: 'qwen3_vl_nothink', cpu: false, backend: 'vllm', gpuMemoryShare: 0.85 };
const huggingface: ServingOptions = { template: 'qwen3_vl_nothink', cpu: false };
const programs = standInPrograms();

/** A stand-in for nvidia-smi: GPUs with so many MiB free. */
function gpusWithFree(...free: number[]): void {
  const rows = free.map((mib, index) => `${index}, A100, 8.0, 81920, ${mib}, 570, GPU-${index}`).join('\n');
  const script = `#!/bin/sh\ncase "$1" in --query-gpu=*) echo '${rows}';; esac\n`;
  programs.put('nvidia-smi', script);
}

/** A model of 8 GiB, which no disk holds. */
function model(): string {
  const modelDir = join(programs.folder, 'model');
  mkdirSync(modelDir, { recursive: true });
  writeFileSync(join(modelDir, 'model.safetensors'), '');
  truncateSync(join(modelDir, 'model.safetensors'), 8 * 1024 ** 3);
  return modelDir;
}

function place(serving: ServingOptions, championServing: ServingOptions): Promise<Placement> {
  const server = { url: 'http://127.0.0.1:1', port: 1 };
  const champion = { champion: { server, serving: championServing } } as unknown as Deployment;
  return choosePlacement('auto', { modelDir: model(), serving, champion }, new AbortController().signal);
}

test('vLLM runs beside the champion where its share of what is free holds what it needs at least', async () => {
  gpusWithFree(20_000);
  expect(await place(vllm, vllm)).toEqual({
    mode: 'beside',
    reason: expect.stringMatching(
      /about 14 GiB, by the size of its weights; 19.5 GiB are free, of which vLLM takes 16.6/,
    ),
  });
});

test.each([
  [16_000, 0.85],
  [20_000, 0.5],
])('with %d MiB free and a share of %d it takes the place of the champion', async (free, gpuMemoryShare) => {
  gpusWithFree(free);
  expect((await place({ ...vllm, gpuMemoryShare }, vllm)).mode).toBe('in-place');
});

test('vLLM serves on one GPU, whatever the others have free', async () => {
  gpusWithFree(10_000, 80_000);
  expect((await place(vllm, vllm)).mode).toBe('in-place');
  expect((await place(huggingface, vllm)).mode).toBe('beside');
});

test('what a champion under vLLM was told to take says nothing about another model', async () => {
  gpusWithFree(16_000);
  expect(await place(huggingface, vllm)).toEqual({ mode: 'beside', reason: expect.stringContaining('its weights') });
});

import { beforeEach, describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { GpuMeter } from '../../host/gpu-use.ts';
import { hasBfloat16, listGpus } from '../../host/gpus.ts';
import { standInPrograms } from '../support/programs.ts';

const programs = standInPrograms();

describe('GPUs are what nvidia-smi lists, with the numbers that decide precision and batch', () => {
  const v100 = 'Tesla V100-SXM2-32GB, 7.0, 32768, 32000, 535.183.01';
  test.each([
    ['a 4090', ['0, NVIDIA GeForce RTX 4090, 8.9, 24564, 24000, 560.35.03'], [true]],
    ['two V100', [`0, ${v100}`, `1, ${v100}`], [false, false]],
    ['a V100 beside an A100', [`0, ${v100}`, '1, NVIDIA A100 80GB PCIe, 8.0, 81920, 81000, 535.183.01'], [false, true]],
  ])('%s', async (_, lines, bfloat16) => {
    nvidiaSmi(`printf '${lines.join('\\n')}\\n'`);
    const gpus = await listGpus();
    expect(gpus.map(hasBfloat16)).toEqual(bfloat16);
    expect(gpus.map((gpu) => [gpu.index, gpu.name, gpu.computeCapability, gpu.totalMemoryBytes / 1024 ** 2])).toEqual(
      lines
        .map((line) => line.split(', '))
        .map(([index, name, cc, total]) => [Number(index), name, Number(cc), Number(total)]),
    );
    expect(gpus[0]?.freeMemoryBytes).toBe(Number(lines[0]?.split(', ')[4]) * 1024 ** 2);
    expect(gpus[0]?.driverVersion).toMatch(/^\d+\.\d+/);
  });
});

test('the use of the GPUs that train is read while somebody asks, and no more often than every ten seconds', async () => {
  nvidiaSmi(`echo asked >> ${join(programs.folder, 'asked')}; printf '0, 1024, 24564, 97\\n1, 10, 24564, 0\\n'`);
  const meter = new GpuMeter([0]);
  expect(meter.latest(20_000)).toEqual([]);
  while (meter.latest(25_000).length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  expect(meter.latest(29_999)).toEqual([
    { index: 0, usedMemoryBytes: 1024 ** 3, totalMemoryBytes: 24564 * 1024 ** 2, utilization: 0.97 },
  ]);
  expect(readFileSync(join(programs.folder, 'asked'), 'utf8')).toBe('asked\n');
});

describe('what is asked of nvidia-smi beside its list', () => {
  const lines = [0, 1, 2].map(
    (index) => `${index}, NVIDIA A100-SXM4-40GB, 8.0, 40960, 40000, 535.183.01, GPU-${index}a`,
  );
  const apps = ['GPU-1a, 4711, 1024, /usr/bin/python3', 'GPU-1a, 4712, 512, a name, with a comma'];

  beforeEach(() => {
    nvidiaSmi(
      `case "$1" in *compute-apps*) printf '${apps.join('\\n')}\\n';; *) printf '${lines.join('\\n')}\\n';; esac`,
    );
  });

  test('who holds the memory of which GPU', async () => {
    expect((await listGpus(undefined)).map(({ holders }) => holders)).toEqual([
      [],
      [
        { pid: 4711, name: '/usr/bin/python3', bytes: 1024 ** 3 },
        { pid: 4712, name: 'a name,with a comma', bytes: 512 * 1024 ** 2 },
      ],
      [],
    ]);
  });

  test.each([
    ['0', [0]],
    ['2,0', [2, 0]],
    ['GPU-1', [1]],
    ['', []],
    ['-1', []],
  ])('CUDA_VISIBLE_DEVICES=%s leaves GPUs %j', async (visible, indexes) => {
    expect((await listGpus(visible)).map(({ index }) => index)).toEqual(indexes);
  });
});

describe('a host has none', () => {
  test.each([
    ['when nvidia-smi lists none', `printf 'No devices were found\\n'`],
    ['when the driver does not answer', 'echo "NVIDIA-SMI has failed"; exit 9'],
    ['when it prints nothing', 'exit 0'],
  ])('%s', async (_, script) => {
    nvidiaSmi(script);
    expect(await listGpus()).toEqual([]);
  });

  test('when there is no nvidia-smi', async () => {
    process.env.PATH = programs.folder;
    expect(await listGpus()).toEqual([]);
  });
});

function nvidiaSmi(script: string): void {
  programs.put('nvidia-smi', `#!/bin/sh\n${script}\n`);
}

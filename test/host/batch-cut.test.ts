import { describe, expect, test } from '@jest/globals';
import { cutOf, rememberCut, rememberedCut, smallerCut } from '../../host/batch-cut.ts';
import type { Gpu } from '../../host/gpus.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

const gpu: Gpu = {
  index: 0,
  name: 'NVIDIA GeForce RTX 4090',
  computeCapability: 8.9,
  totalMemoryBytes: 24 * 1024 ** 3,
  freeMemoryBytes: 23 * 1024 ** 3,
  driverVersion: '560.35',
  holders: [],
};
const options = {
  model_name_or_path: '/models/base',
  cutoff_len: 2048,
  image_max_pixels: 262_144,
  per_device_train_batch_size: 16,
  gradient_accumulation_steps: 1,
};

test.each([1, 2, 3, 16])(
  'from 1 to 64 rows × %i, each rung keeps the global batch, down to a single row',
  (accumulation) => {
    for (let microBatch = 1; microBatch <= 64; microBatch++) {
      const rungs = ladder({ microBatch, accumulation });
      for (const rung of rungs) expect(rung.microBatch * rung.accumulation).toBe(microBatch * accumulation);
      for (const [index, rung] of rungs.slice(1).entries()) {
        expect(rung.microBatch).toBeLessThanOrEqual((rungs[index]?.microBatch ?? 0) / 2);
      }
      expect(rungs.at(-1)?.microBatch).toBe(1);
    }
  },
);

test('from 16 rows the rungs are 8, 4, 2 and 1', () => {
  expect(ladder({ microBatch: 16, accumulation: 1 }).map((rung) => rung.microBatch)).toEqual([16, 8, 4, 2, 1]);
});

test("a cut that is not given is that of transformers' defaults", () => {
  expect(cutOf({})).toEqual({ microBatch: 8, accumulation: 1 });
});

test('what fitted is where the next training on such a GPU begins', async () => {
  const home = newFolder();
  const fitted = { microBatch: 4, accumulation: 4 };
  expect(await rememberedCut(home, [gpu], options)).toEqual({ microBatch: 16, accumulation: 1 });
  await rememberCut(home, [gpu], options, fitted);
  expect(await rememberedCut(home, [gpu], options)).toEqual(fitted);
  expect(await rememberedCut(home, [{ ...gpu, freeMemoryBytes: 0 }], { ...options, learning_rate: 1e-5 })).toEqual(
    fitted,
  );
});

describe('it says nothing about', () => {
  test.each([
    ['a larger GPU', [{ ...gpu, totalMemoryBytes: 80 * 1024 ** 3 }], {}],
    ['two GPUs', [gpu, gpu], {}],
    ['larger pictures', [gpu], { image_max_pixels: 589_824 }],
    ['another base', [gpu], { model_name_or_path: '/models/larger' }],
    ['longer rows', [gpu], { cutoff_len: 8192 }],
  ])('%s', async (_, gpus, changes) => {
    const home = newFolder();
    await rememberCut(home, [gpu], options, { microBatch: 4, accumulation: 4 });
    expect(await rememberedCut(home, gpus, { ...options, ...changes })).toEqual({ microBatch: 16, accumulation: 1 });
  });
});

test('a cut that fitted as it was asked for needs no memory, and others stay remembered', async () => {
  const home = newFolder();
  const other = { ...options, per_device_train_batch_size: 32 };
  await rememberCut(home, [gpu], options, { microBatch: 4, accumulation: 4 });
  await rememberCut(home, [gpu], other, { microBatch: 32, accumulation: 1 });
  await rememberCut(home, [gpu], other, { microBatch: 16, accumulation: 2 });
  expect(await rememberedCut(home, [gpu], options)).toEqual({ microBatch: 4, accumulation: 4 });
  expect(await rememberedCut(home, [gpu], other)).toEqual({ microBatch: 16, accumulation: 2 });
});

function ladder(cut: { microBatch: number; accumulation: number }): { microBatch: number; accumulation: number }[] {
  const next = smallerCut(cut);
  return next === undefined ? [cut] : [cut, ...ladder(next)];
}

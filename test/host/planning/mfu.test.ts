import { beforeAll, describe, expect, jest, test } from '@jest/globals';
import { join } from 'node:path';
import { checkout, trainerPython } from '../../../host/checkout.ts';
import { modelFlopsUtilization, stepFlops, type Setup, type StepWork } from '../../../host/planning/mfu.ts';
import { readModelShape, type ModelShape } from '../../../host/planning/model-shape.ts';
import { runProgram } from '../../../host/subprocess.ts';

jest.setTimeout(120_000);

const base = join(checkout, 'demo/tiny-qwen3-vl');
const work: StepWork = { tokens: 100, attendedPairs: 5050, patches: 64, patchPairs: 4096, logitPositions: 10 };
let shape: ModelShape;

beforeAll(async () => {
  shape = await readModelShape(base);
});

describe("a step's FLOPs are those that PyTorch's own counter counts", () => {
  test.each<[string, Record<string, unknown>]>([
    ['lora', { finetuning_type: 'lora' }],
    ['full', { finetuning_type: 'full' }],
    ['vision', { finetuning_type: 'full', freeze_vision_tower: false, freeze_multi_modal_projector: false }],
  ])('%s', async (way, options) => {
    const program = join(checkout, 'test/fixtures/count_flops.py');
    const { stdout, stderr } = await runProgram(trainerPython, [program, base, way]);
    if (stdout === '') throw new Error(stderr);
    const counted = JSON.parse(stdout) as { flops: number; work: StepWork; trainableParameters: number };
    const flops = stepFlops(shape, options, counted.trainableParameters, counted.work) ?? NaN;
    expect(Math.abs(flops / counted.flops - 1)).toBeLessThan(0.02);
  });
});

test('LoRA does without the gradients of frozen weights, and a frozen tower without any', () => {
  const flops = (options: Record<string, unknown>, trainable = 0) => stepFlops(shape, options, trainable, work) ?? NaN;
  const lora = flops({});
  expect(flops({}, 1000) - lora).toBe(6 * 1000 * work.tokens);
  expect(flops({ finetuning_type: 'full' })).toBeGreaterThan(1.2 * lora);
  expect(flops({ freeze_vision_tower: false })).toBeGreaterThan(lora);
  const onlyTower = { finetuning_type: 'full', freeze_language_model: true, freeze_vision_tower: false };
  expect(flops(onlyTower)).toBeLessThan(flops({ ...onlyTower, freeze_language_model: false }));
});

test.each([{ finetuning_type: 'freeze' }, { additional_target: 'lm_head' }])(
  'where the formula does not hold nothing is claimed: %j',
  (options) => {
    expect(stepFlops(shape, options, 1000, work)).toBeUndefined();
  },
);

describe('utilization', () => {
  const on = (setup: Partial<Setup>): Setup => ({
    ...{ device: 'NVIDIA H100 80GB HBM3', devices: 1, precision: 'bf16', trainableParameters: 0, ...setup },
  });
  const of = (setup: Setup | undefined) => modelFlopsUtilization([{ flops: 989e12, seconds: 2, setup }]);

  test('is what was done over what the GPUs could have done', () => {
    expect(of(on({}))).toBeCloseTo(0.5);
    expect(of(on({ devices: 2 }))).toBeCloseTo(0.25);
    expect(of(on({ device: 'Tesla V100-SXM2-32GB', precision: 'fp16' }))).toBeCloseTo(989 / 250);
  });

  test('weighs steps on different GPUs by their time', () => {
    const steps = [
      { flops: 989e12, seconds: 1, setup: on({}) },
      { flops: 0, seconds: 1, setup: on({ device: 'NVIDIA A100-SXM4-80GB' }) },
    ];
    expect(modelFlopsUtilization(steps)).toBeCloseTo(989 / (989 + 312));
  });

  test.each<[string, Setup | undefined]>([
    ['a CPU', on({ device: 'cpu' })],
    ['a GPU of another name', on({ device: 'NVIDIA Something 9000' })],
    ['fp32', on({ precision: 'fp32' })],
    ['bf16 on a V100', on({ device: 'Tesla V100-SXM2-16GB' })],
    ['a trainer that did not say', undefined],
  ])('is not claimed for %s', (_, setup) => {
    expect(of(setup)).toBeUndefined();
  });

  test('is not claimed for steps without FLOPs, or for no step', () => {
    expect(modelFlopsUtilization([{ flops: undefined, seconds: 1, setup: on({}) }])).toBeUndefined();
    expect(modelFlopsUtilization([])).toBeUndefined();
  });
});

import { describe, expect, test } from '@jest/globals';
import { factsFor } from '../../../bench/plans.ts';
import { makePlan, type PlanFacts } from '../../../host/planning/plan.ts';
import { paddedLength } from '../../../host/planning/row-lengths.ts';
import { qwen3VL } from '../../support/planning.ts';

const GIB = 2 ** 30;

test('the global batch is kept on any number of GPUs, whatever its divisors', () => {
  for (const globalBatchSize of [1, 7, 12, 16, 30, 64])
    for (let gpus = 1; gpus <= 8; gpus++) {
      const plan = makePlan(facts('RTX 4090', gpus, {}, { wishes: { globalBatchSize } }));
      expect(plan.cut.microBatch * plan.cut.accumulation * plan.gpus).toBe(globalBatchSize);
      expect(plan.globalBatch).toBe(globalBatchSize);
      expect(plan.gpuIndices).toHaveLength(plan.gpus);
    }
});

test('every plan fits, with its stated error, into what is free', () => {
  for (const card of ['T4', 'RTX 4090', 'V100', 'A100-SXM4-80GB', 'H200'])
    for (const size of ['4b', '8b'] as const)
      for (const freeGiB of [9, 11, 13, 15, 24, 48, 80]) {
        const asked = facts(card, 1, {}, { shape: qwen3VL(size) });
        for (const gpu of asked.gpus) gpu.freeMemoryBytes = freeGiB * GIB;
        try {
          const { memory } = makePlan(asked).prediction;
          const states = (memory?.weights ?? 0) + (memory?.optimizer ?? 0);
          const working = (memory?.total ?? 0) - states;
          expect(states + working * (1 + (memory?.errorShare ?? 0))).toBeLessThanOrEqual(memory?.availableBytes ?? 0);
        } catch (error) {
          expect(String(error)).toMatch(/HostError: This training does not fit: lora of this model needs at least/);
        }
      }
});

describe('precision goes by compute capability', () => {
  test.each([
    ['V100', { fp16: true }],
    ['T4', { fp16: true }],
    ['A100', { bf16: true }],
    ['RTX 4090', { bf16: true }],
  ])('%s', (card, options) => expect(makePlan(facts(card, 1)).options).toMatchObject(options));
});

describe('what the config says wins', () => {
  test.each([
    [{ per_device_train_batch_size: 2 }, { microBatch: 2, accumulation: 8 }],
    [{ gradient_accumulation_steps: 4 }, { microBatch: 4, accumulation: 4 }],
    [
      { per_device_train_batch_size: 1, gradient_accumulation_steps: 16 },
      { microBatch: 1, accumulation: 16 },
    ],
  ])('the cut %j', (options, cut) => expect(makePlan(facts('A100', 1, options)).cut).toEqual(cut));

  test.each([
    ['bf16', false],
    ['fp16', true],
    ['disable_gradient_checkpointing', true],
    ['disable_gradient_checkpointing', false],
    ['flash_attn', 'disabled'],
    ['dataloader_num_workers', 0],
    ['torch_compile', true],
    ['per_device_eval_batch_size', 3],
  ])('%s: %s', (option, value) => {
    const { options, decisions } = makePlan(facts('H100', 1, { [option]: value }));
    expect(options).not.toHaveProperty(option);
    expect(decisions).toContainEqual(expect.objectContaining({ option, value, by: 'config' }));
  });

  test('both numbers of the cut mean what they mean to LLaMA-Factory: for each GPU', () => {
    const options = { per_device_train_batch_size: 2, gradient_accumulation_steps: 4 };
    expect(makePlan(facts('A100', 4, options, { wishes: {} }))).toMatchObject({ gpus: 4, globalBatch: 32 });
  });

  test('a cut that the global batch has no room for is refused', () => {
    const options = { per_device_train_batch_size: 3 };
    expect(() => makePlan(facts('A100', 1, options))).toThrow(
      /plan.globalBatchSize: 16 can't be cut as the config wants it \(train.per_device_train_batch_size: 3\)/,
    );
  });

  test('at most plan.gpus train, those with most free memory', () => {
    const asked = facts('RTX 4090', 4, {}, { wishes: { globalBatchSize: 16, gpus: 2 } });
    asked.gpus.forEach((gpu, index) => (gpu.freeMemoryBytes = (20 + index) * GIB));
    expect(makePlan(asked).gpuIndices).toEqual([2, 3]);
  });

  test('a config with its own DeepSpeed trains on all GPUs, with no promise about memory', () => {
    const plan = makePlan(facts('A100', 4, { deepspeed: 'zero3.json', finetuning_type: 'full' }));
    expect(plan).toMatchObject({ gpus: 4, globalBatch: 16, cut: { microBatch: 1 }, prediction: { memory: null } });
  });
});

test('torch_compile is worth its first step on a long run only, and is left alone where it is not known', () => {
  const installed = { flashAttention: false, deepspeed: false, liger: false };
  const rows = (count: number) => ({ rows: { ...facts('H100', 1).rows, rows: count }, installed });
  expect(makePlan(facts('H100', 1, {}, rows(320))).options).not.toHaveProperty('torch_compile');
  expect(makePlan(facts('H100', 1, {}, rows(40_000))).options).toMatchObject({ torch_compile: true });
  expect(makePlan(facts('V100', 1, {}, rows(40_000))).options).not.toHaveProperty('torch_compile');
});

test("Liger's kernels are used where they are installed, the GPU has bf16 and LoRA is trained, and nothing is compiled then", () => {
  const long = { rows: { ...facts('A100', 1).rows, rows: 40_000 } };
  const { options } = makePlan(facts('A100', 1, {}, long));
  expect(options).toMatchObject({ enable_liger_kernel: true });
  expect(options).not.toHaveProperty('torch_compile');
  expect(makePlan(facts('V100', 1, {}, long)).options).not.toHaveProperty('enable_liger_kernel');
  const full = makePlan(facts('H100', 1, { finetuning_type: 'full' }, long));
  expect(full.options).not.toHaveProperty('enable_liger_kernel');
  const refused = makePlan(facts('A100', 1, { enable_liger_kernel: false }, long));
  expect(refused.options).toMatchObject({ torch_compile: true });
  expect(refused.options).not.toHaveProperty('enable_liger_kernel');
});

test('FlashAttention-2 is used where it is installed and the GPU has it', () => {
  const installed = { installed: { flashAttention: true, deepspeed: false, liger: true } };
  expect(makePlan(facts('A100', 1, {}, installed)).options).toMatchObject({ flash_attn: 'fa2' });
  expect(makePlan(facts('V100', 1, {}, installed)).options).toMatchObject({ flash_attn: 'sdpa' });
  expect(makePlan(facts('A100', 1)).options).toMatchObject({ flash_attn: 'sdpa' });
});

test('more GPUs are used only for speed', () => {
  expect(makePlan(facts('H200', 8)).gpus).toBeLessThan(8);
  expect(makePlan(facts('V100', 8)).gpus).toBe(8);
});

test('a YAML that stands in the way is told what it costs', () => {
  const options = { per_device_train_batch_size: 1, gradient_accumulation_steps: 16, bf16: false };
  const { advice } = makePlan(facts('H100', 1, options, { wishes: {} }));
  expect(advice).toEqual([expect.stringMatching(/^without train.per_device_train_batch_size, .* \([\d.]+ ×\)$/)]);
  expect(makePlan(facts('H100', 1)).advice).toEqual([]);
});

test('the price of a GPU hour gives the cost of all GPUs', () => {
  const wishes = { globalBatchSize: 16, gpuHourPrice: 3, gpus: 2 };
  const { gpus, prediction } = makePlan(facts('RTX 4090', 2, {}, { wishes }));
  expect(gpus).toBe(2);
  expect(prediction.cost).toBeCloseTo((prediction.hours ?? 0) * 6);
});

test('on a CPU nothing is promised, and 16 rows at most are read at once', () => {
  const plan = makePlan(facts('H100', 1, {}, { gpus: [], wishes: { globalBatchSize: 48 } }));
  expect(plan).toMatchObject({
    gpus: 0,
    cut: { microBatch: 16, accumulation: 3 },
    prediction: { memory: null, hours: null },
  });
  expect(plan.options).not.toHaveProperty('bf16');
});

describe('what does not fit is refused with what would do', () => {
  test.each<[string, PlanFacts, RegExp]>([
    [
      '8B on a V100',
      facts('V100', 1, {}, { shape: qwen3VL('8b') }),
      /2 such GPUs with DeepSpeed.*train.quantization_bit: 4.*a GPU with 24 GiB/,
    ],
    ['full on a V100', facts('V100', 1, { finetuning_type: 'full' }), /finetuning_type: lora .*a GPU with 80 GiB/],
    [
      'DeepSpeed is not there',
      facts(
        'RTX 4090',
        8,
        { finetuning_type: 'full' },
        { installed: { flashAttention: false, deepspeed: false, liger: true } },
      ),
      /installing DeepSpeed \(docs\/plans.md\): DeepSpeed's ZeRO stage 3 on 4 of these GPUs/,
    ],
  ])('%s', (_what, asked, message) => expect(() => makePlan(asked)).toThrow(message));

  test("and with who holds the GPU's memory", () => {
    const asked = facts('RTX 4090', 1);
    const holders = [{ pid: 77, name: 'python3', bytes: 18 * GIB }];
    asked.gpus = asked.gpus.map((gpu) => ({ ...gpu, freeMemoryBytes: 5 * GIB, holders }));
    expect(() => makePlan(asked)).toThrow(/stop process 77 \(python3, 18 GiB of GPU 0\)/);
  });
});

describe('earlier trainings on this host', () => {
  const first = facts('RTX 4090', 1, { disable_gradient_checkpointing: false, torch_compile: false });
  const before = makePlan(first);
  const measured = (factor: number) => {
    const { memory, secondsPerStep } = before.prediction;
    const states = (memory?.weights ?? 0) + (memory?.optimizer ?? 0);
    const { rows } = first;
    return {
      ...{ gpu: first.gpus[0]?.name ?? '', shape: first.shape, way: before.way!, measuredAt: '2026-01-01T00:00:00Z' },
      ...{ tokens: rows.longest, answerSpan: rows.answerSpan, pictureTokens: rows.meanPictureTokens },
      mostPictureTokens: rows.mostPictureTokens,
      ...{ paddedTokens: paddedLength(rows, before.cut.microBatch), answerTokens: rows.meanAnswer },
      reservedBytes: states + ((memory?.total ?? 0) - states) * factor,
      secondsPerStep: (secondsPerStep ?? 0) * factor,
    };
  };

  test('correct the prediction, and narrow its error', () => {
    const { prediction } = makePlan({ ...first, measurements: [measured(1.1)] });
    expect(prediction.isCalibrated).toBe(true);
    expect(prediction.memory?.errorShare).toBeLessThan(before.prediction.memory?.errorShare ?? 0);
  });

  test('a training that took twice as much is planned smaller', () => {
    const narrow = { ...first, gpus: first.gpus.map((gpu) => ({ ...gpu, freeMemoryBytes: 12.5 * GIB })) };
    const unmeasured = makePlan(narrow);
    const after = makePlan({ ...narrow, measurements: [measured(2)] });
    expect(after.cut.microBatch).toBeLessThan(unmeasured.cut.microBatch);
  });

  test('of another kind say nothing', () => {
    const elsewhere = { ...measured(2), gpu: 'NVIDIA A100' };
    expect(makePlan({ ...first, measurements: [elsewhere] }).prediction).toEqual(before.prediction);
  });
});

function facts(card: string, gpus: number, options = {}, changes: Partial<PlanFacts> = {}): PlanFacts {
  const facts = factsFor(card, gpus, qwen3VL('4b'), 'lora');
  return { ...facts, ...changes, options: { ...facts.options, ...options } };
}

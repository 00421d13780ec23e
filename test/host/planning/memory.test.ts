import { expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../../host/checkout.ts';
import { fullParameters, loraParameters, predictMemory, type MemoryFacts } from '../../../host/planning/memory.ts';
import { qwen3VL } from '../../support/planning.ts';

/** A line of bench/gpu/results/memory-*.json, as bench/gpu/memory.py and train.py measured it. */
interface Point {
  shape: '4b' | '8b';
  finetuning: 'lora' | 'full';
  precision: 'bf16' | 'fp16';
  rows: number;
  pictures: number;
  answerTokens: number;
  gradientCheckpointing: boolean;
  compiled: boolean;
  /** With Liger's kernels and without attention masks. */
  liger?: boolean;
  gpu: string;
  /** With padding. */
  tokensPerRow: number;
  reservedBytes: number;
  /** Measured while PEFT still cast each adapter's input, which kept up to a tenth more where layers are not checkpointed. */
  peftCasts: boolean;
}

const folder = join(checkout, 'bench/gpu/results');
const points = readdirSync(folder)
  .filter((name) => name.startsWith('memory-'))
  .flatMap((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')) as Point[]);

test.each(points)(
  'the peak of $shape $finetuning $precision, $rows × $tokensPerRow tokens, on $gpu is predicted within 15 %',
  (point) => {
    const error = predictMemory(factsOf(point)).total / point.reservedBytes - 1;
    expect(Math.abs(error)).toBeLessThan(point.peftCasts ? 0.15 : 0.08);
  },
);

test('the points are of both shapes and methods, and with and without everything that the formula knows', () => {
  for (const [key, values] of Object.entries({
    ...{ shape: ['4b', '8b'], finetuning: ['lora', 'full'], precision: ['bf16', 'fp16'] },
    ...{ gradientCheckpointing: [true, false], compiled: [true, false], pictures: [1, 4], liger: [true, undefined] },
  }))
    expect(new Set<unknown>(points.map((point) => point[key as keyof Point]))).toEqual(new Set<unknown>(values));
});

function factsOf(point: Point): MemoryFacts {
  const shape = qwen3VL(point.shape);
  return {
    ...{ shape, finetuning: point.finetuning, quantizationBits: undefined, pureBf16: false, sharding: 'none', gpus: 1 },
    ...{ gradientCheckpointing: point.gradientCheckpointing, compiled: point.compiled, liger: point.liger },
    precision: point.precision === 'fp16' ? 'fp16-from-bf16' : 'bf16',
    trainable: point.finetuning === 'lora' ? loraParameters(shape, 8) : fullParameters(shape),
    ...{ microBatch: point.rows, tokens: point.tokensPerRow, pictureTokens: 256 * point.pictures },
    answerSpan: point.answerTokens + 2, // its end and the line break belong to the answer
  };
}

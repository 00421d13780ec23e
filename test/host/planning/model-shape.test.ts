import { expect, test } from '@jest/globals';
import { mkdtempSync, openSync, readSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkout } from '../../../host/checkout.ts';
import { readModelShape, totalParameters } from '../../../host/planning/model-shape.ts';
import { qwen3VL } from '../../support/planning.ts';

const tiny = join(checkout, 'demo/tiny-qwen3-vl');

test("parameters are those of the model's own tensors, part by part", async () => {
  const { parameters } = await readModelShape(tiny);
  expect(parameters).toEqual(countTensors(join(tiny, 'model.safetensors')));
});

test.each([
  ['4b', 4_437_815_808],
  ['8b', 8_767_123_696],
] as const)('Qwen3-VL-%s has as many parameters as are published', (size, expected) => {
  expect(totalParameters(qwen3VL(size))).toBe(expected);
});

test.each([
  ['another model', { model_type: 'qwen2_5_vl' }, /model_type qwen2_5_vl; a plan is made for qwen3_vl only/],
  ['no text', { model_type: 'qwen3_vl' }, /text_config: hidden_size is missing/],
])('a folder of %s is refused by name', async (_what, config, message) => {
  const folder = mkdtempSync(join(tmpdir(), 'temper-shape-'));
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  await expect(readModelShape(folder)).rejects.toThrow(message);
});

/** Elements of a safetensors file's tensors; the header is JSON behind its length in 8 bytes. */
function countTensors(path: string) {
  const file = openSync(path, 'r');
  const length = Buffer.alloc(8);
  readSync(file, length, 0, 8, 0);
  const header = Buffer.alloc(Number(length.readBigUInt64LE()));
  readSync(file, header, 0, header.length, 8);
  const { __metadata__: _, ...tensors } = JSON.parse(header.toString()) as Record<string, { shape: number[] }>;
  const counts = { text: 0, embedding: 0, head: 0, vision: 0, merger: 0 };
  for (const [name, { shape }] of Object.entries(tensors)) {
    const part = (
      [
        ['embed_tokens', 'embedding'],
        ['lm_head', 'head'],
        ['merger', 'merger'],
        ['visual', 'vision'],
      ] as const
    ).find(([word]) => name.includes(word));
    counts[part?.[1] ?? 'text'] += shape.reduce((product, size) => product * size, 1);
  }
  return counts;
}

import { beforeEach, describe, expect, test } from '@jest/globals';
import { chmodSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { makeBaseOverlay } from '../../host/base-overlay.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

const config = {
  architectures: ['Qwen3VLForConditionalGeneration'],
  torch_dtype: 'bfloat16',
  text_config: { dtype: 'bfloat16', hidden_size: 64 },
  vision_config: { depth: 2 },
};

let base: string;
let overlay: string;

beforeEach(() => {
  const folder = newFolder();
  base = join(folder, 'base');
  overlay = join(folder, 'run/base-fp16');
  mkdirSync(join(base, 'sub'), { recursive: true });
  writeFileSync(join(base, 'config.json'), JSON.stringify(config));
  writeFileSync(join(base, 'model.safetensors'), 'weights');
});

describe('every level of config.json says the dtype, and nothing else has changed', () => {
  test.each(['float16', 'bfloat16'] as const)('%s', async (dtype) => {
    await makeBaseOverlay(base, overlay, dtype);
    expect(JSON.parse(readFileSync(join(overlay, 'config.json'), 'utf8'))).toEqual({
      architectures: config.architectures,
      dtype,
      text_config: { dtype, hidden_size: 64 },
      vision_config: { dtype, depth: 2 },
    });
  });
});

test('everything else is a link, so that an overlay of 9 GB takes no room', async () => {
  expect(await makeBaseOverlay(base, overlay, 'float16')).toBe(overlay);
  expect(readdirSync(overlay).sort()).toEqual(['config.json', 'model.safetensors', 'sub']);
  expect(readlinkSync(join(overlay, 'model.safetensors'))).toBe(join(base, 'model.safetensors'));
  expect(readFileSync(join(overlay, 'model.safetensors'), 'utf8')).toBe('weights');
  expect(lstatSync(join(overlay, 'config.json')).isSymbolicLink()).toBe(false);
});

test('a base given by a relative path is found from the overlay all the same', async () => {
  await makeBaseOverlay(relative(process.cwd(), base), overlay, 'float16');
  expect(readFileSync(join(overlay, 'model.safetensors'), 'utf8')).toBe('weights');
});

test('making it again follows the base, and the base is never touched', async () => {
  chmodSync(join(base, 'config.json'), 0o444);
  await makeBaseOverlay(base, overlay, 'bfloat16');
  writeFileSync(join(base, 'tokenizer.json'), '{}');
  await makeBaseOverlay(base, overlay, 'float16');
  expect(readdirSync(overlay)).toContain('tokenizer.json');
  expect(JSON.parse(readFileSync(join(overlay, 'config.json'), 'utf8'))).toMatchObject({ dtype: 'float16' });
  expect(readdirSync(base).sort()).toEqual(['config.json', 'model.safetensors', 'sub', 'tokenizer.json']);
  expect(JSON.parse(readFileSync(join(base, 'config.json'), 'utf8'))).toEqual(config);
});

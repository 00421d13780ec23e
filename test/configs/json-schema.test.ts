import { expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { jsonSchema, jsonSchemaText } from '../../configs/json-schema.ts';
import { options } from '../../configs/llamafactory-options.ts';

interface Schema {
  description?: string;
  additionalProperties?: unknown;
  properties: Record<string, Schema>;
  required?: string[];
  anyOf?: unknown;
}

const schema = jsonSchema() as unknown as Schema;
const train = schema.properties.train;

test('configs/schema.json is what the schema says now (npx temper schema > configs/schema.json)', () => {
  expect(readFileSync('configs/schema.json', 'utf8')).toBe(jsonSchemaText());
});

test('an editor offers every option of LLaMA-Factory with its help and default', () => {
  expect(Object.keys(train?.properties ?? {}).sort()).toEqual(Object.keys(options).sort());
  expect(train?.properties.lora_rank).toMatchObject({
    type: 'integer',
    minimum: 1,
    description: 'The intrinsic dimension for LoRA fine-tuning. Default: 8',
  });
  expect(train?.properties.lr_scheduler_type).toMatchObject({ enum: expect.arrayContaining(['cosine']) });
});

test('an editor marks unknown keys and misses the required ones, and only those', () => {
  expect([schema.additionalProperties, train?.additionalProperties]).toEqual([false, false]);
  expect(schema.required).toEqual(['train']);
  expect(train?.required?.toSorted()).toEqual(['dataset', 'dataset_dir', 'template']);
  expect(schema.anyOf).toEqual([
    { required: ['model'] },
    { properties: { train: { required: ['model_name_or_path'] } } },
  ]);
});

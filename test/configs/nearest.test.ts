import { expect, test } from '@jest/globals';
import { nearest } from '../../configs/nearest.ts';

const candidates = ['lora_rank', 'lora_alpha', 'learning_rate', 'bf16', 'fp16', 'apiPort'];

test.each([
  ['lora_rnak', 'lora_rank'],
  ['LORA-RANK', 'lora_rank'],
  ['learningrate', 'learning_rate'],
  ['api_port', 'apiPort'],
  ['bf61', 'bf16'],
  ['lora_alpa', 'lora_alpha'],
  ['weight_decay', undefined],
  ['', undefined],
])('%s was most likely meant to be %s', (word, expected) => {
  expect(nearest(word, candidates)).toBe(expected);
});

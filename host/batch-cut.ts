import { join } from 'node:path';
import { digestOfValue } from './digest.ts';
import type { Gpu } from './gpus.ts';
import { readJson, writeJson } from './state-file.ts';
import type { TrainingOptions } from './training-config.ts';

/** How a global batch is cut: rows at once on a GPU, times micro-steps for one optimizer step. */
export interface BatchCut {
  microBatch: number;
  accumulation: number;
}

/** The cut that the options ask for; defaults are those of transformers' TrainingArguments. */
export function cutOf(options: TrainingOptions): BatchCut {
  return {
    microBatch: Number(options.per_device_train_batch_size ?? 8),
    accumulation: Number(options.gradient_accumulation_steps ?? 1),
  };
}

/** The next smaller cut of the same global batch; undefined when a single row is already too much. */
export function smallerCut({ microBatch, accumulation }: BatchCut): BatchCut | undefined {
  const global = microBatch * accumulation;
  for (let rows = Math.floor(microBatch / 2); rows >= 1; rows--) {
    if (global % rows === 0) return { microBatch: rows, accumulation: global / rows };
  }
  return undefined;
}

/** The cut that fitted last time for these GPUs, this base, batch and pixel budget, else the options' own. */
export async function rememberedCut(home: string, gpus: Gpu[], options: TrainingOptions): Promise<BatchCut> {
  const memory = (await readJson<Record<string, BatchCut>>(memoryFile(home))) ?? {};
  return memory[keyOf(gpus, options)] ?? cutOf(options);
}

/** Keep a cut that fitted where the options' own did not. */
export async function rememberCut(home: string, gpus: Gpu[], options: TrainingOptions, cut: BatchCut): Promise<void> {
  if (cut.microBatch === cutOf(options).microBatch) return;
  const memory = (await readJson<Record<string, BatchCut>>(memoryFile(home))) ?? {};
  await writeJson(memoryFile(home), { ...memory, [keyOf(gpus, options)]: cut });
}

function memoryFile(home: string): string {
  return join(home, 'cache/batch-cuts.json');
}

/** What decides whether a micro-batch fits. */
function keyOf(gpus: Gpu[], options: TrainingOptions): string {
  const decisive = [
    'model_name_or_path finetuning_type lora_rank lora_target additional_target freeze_vision_tower template cutoff_len',
    'image_max_pixels video_max_pixels bf16 fp16 quantization_bit flash_attn disable_gradient_checkpointing deepspeed',
    'per_device_train_batch_size gradient_accumulation_steps',
  ].flatMap((names) => names.split(' '));
  return digestOfValue({
    gpus: gpus.map(({ name, totalMemoryBytes }) => [name, totalMemoryBytes]),
    options: decisive.map((name) => [name, options[name] ?? null]),
  });
}

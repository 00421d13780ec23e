import type { BatchCut } from '../batch-cut.ts';
import { hasBfloat16 } from '../gpus.ts';
import type { TrainingOptions } from '../training-config.ts';
import {
  fullParameters,
  loraParameters,
  type Sharding,
  type TrainingMethod,
  type TrainingPrecision,
} from './memory.ts';
import type { PlanFacts } from './plan.ts';

/** One way to do the config's optimization. */
export interface Way extends TrainingMethod {
  quantizationBits: number | undefined;
  pureBf16: boolean;
  /** Missing where it is not used: measurements of before have no such key, and are found by their keys. */
  liger?: true;
  /** Rows of an optimizer step over all GPUs. */
  globalBatch: number;
  cut: BatchCut;
}

/** Rows of an optimizer step when neither `plan.globalBatchSize` nor the options' own cut says it. */
export const DEFAULT_GLOBAL_BATCH = 16;

/** torch_compile and Liger's kernels have been measured with LoRA in bf16 on GPUs that don't share the model. */
const isMeasured = ({ finetuning }: Pick<Way, 'finetuning'>, precision: TrainingPrecision, sharding: Sharding) =>
  finetuning === 'lora' && precision === 'bf16' && sharding === 'none';

/** Every way that keeps the global batch and what the config says, whether or not it fits. */
export function waysToTrain(facts: PlanFacts, precision: TrainingPrecision): Way[] {
  const { options } = facts;
  const method = methodOf(facts);
  const ways: Way[] = [];
  for (const gpus of gpuCounts(facts)) {
    const globalBatch = globalBatchOf(options, facts.wishes, gpus);
    for (const cut of cutsOf(globalBatch / gpus, options))
      for (const sharding of shardingsOf(facts, gpus, method))
        for (const gradientCheckpointing of given(options.disable_gradient_checkpointing, (off) => off !== true))
          for (const kernels of kernelsFor(facts, isMeasured(method, precision, sharding)))
            ways.push({ ...method, precision, gradientCheckpointing, ...kernels, sharding, gpus, globalBatch, cut });
  }
  return ways;
}

/**
 * Compiled or not, with Liger's kernels or not, as the config says; what it leaves open only where that has been measured. Liger's
 * kernels want a GPU from Ampere on, and are never planned beside a compiler that fuses by itself.
 */
function kernelsFor({ options, installed, gpus }: PlanFacts, isKnown: boolean): Pick<Way, 'compiled' | 'liger'>[] {
  const { torch_compile: compile, enable_liger_kernel: liger } = options;
  const choices = compile === undefined && !isKnown ? [false] : given(compile, (on) => on === true);
  const isUsable = installed.liger && gpus.every(hasBfloat16) && isKnown;
  return choices.map((compiled) => {
    const withLiger = liger === undefined ? isUsable && !compiled : liger === true;
    return withLiger ? { compiled, liger: true } : { compiled };
  });
}

/** Rows of an optimizer step: `plan.globalBatchSize`, else what the options' own cut comes to on so many GPUs. */
export function globalBatchOf(options: TrainingOptions, wishes: PlanFacts['wishes'], gpus: number): number {
  if (wishes.globalBatchSize !== undefined) return wishes.globalBatchSize;
  const { per_device_train_batch_size: rows, gradient_accumulation_steps: times } = options;
  if (rows === undefined || times === undefined) return DEFAULT_GLOBAL_BATCH;
  return Number(rows) * Number(times) * Math.max(gpus, 1);
}

/** The cuts of so many rows a GPU that the options allow: those of their own numbers, else every divisor. */
export function cutsOf(rows: number, options: TrainingOptions): BatchCut[] {
  const { per_device_train_batch_size: fixed, gradient_accumulation_steps: times } = options;
  return Array.from({ length: Math.floor(rows) }, (_, index) => index + 1)
    .filter((microBatch) => rows % microBatch === 0)
    .map((microBatch) => ({ microBatch, accumulation: rows / microBatch }))
    .filter(({ microBatch }) => fixed === undefined || microBatch === Number(fixed))
    .filter(({ accumulation }) => times === undefined || accumulation === Number(times));
}

/** What is trained, by the options; DeepSpeed and FSDP aside. */
function methodOf({ shape, options }: PlanFacts) {
  const finetuning = (options.finetuning_type ?? 'lora') as Way['finetuning'];
  const target = (options.lora_target ?? 'all') as string | string[];
  const trainable =
    finetuning === 'lora'
      ? loraParameters(shape, Number(options.lora_rank ?? 8), target)
      : fullParameters(shape, {
          freezeVision: options.freeze_vision_tower !== false,
          freezeMerger: options.freeze_multi_modal_projector !== false,
          freezeText: options.freeze_language_model === true,
        });
  const bits = options.quantization_bit == null ? undefined : Number(options.quantization_bit);
  return { finetuning, trainable, quantizationBits: bits, pureBf16: options.pure_bf16 === true };
}

/** How many GPUs may train: those that share the global batch evenly; where the options fix the cut, as many as there are. */
function gpuCounts({ gpus, wishes, options }: PlanFacts): number[] {
  const most = Math.min(gpus.length, wishes.gpus ?? gpus.length);
  const isFixed =
    wishes.globalBatchSize === undefined &&
    options.per_device_train_batch_size !== undefined &&
    options.gradient_accumulation_steps !== undefined;
  if (isFixed) return [most];
  const counts = Array.from({ length: most }, (_, index) => index + 1);
  return counts.filter((count) => globalBatchOf(options, wishes, count) % count === 0);
}

function shardingsOf(
  { installed, options, hostMemoryBytes }: PlanFacts,
  gpus: number,
  { finetuning, trainable }: Pick<Way, 'finetuning' | 'trainable'>,
): Sharding[] {
  if (!installed.deepspeed || options.quantization_bit != null) return ['none'];
  if (finetuning === 'lora') return gpus > 1 ? ['none', 'zero3'] : ['none'];
  const offload: Sharding[] = offloadedBytes(trainable) <= hostMemoryBytes * 0.8 ? ['zero3-offload'] : [];
  return gpus > 1 ? ['none', 'zero2', 'zero3', ...offload] : ['none', ...offload];
}

/** What ZeRO's offloading keeps in the host's memory: fp32 weights, Adam's moments and gradients. */
export function offloadedBytes(trainable: number): number {
  return trainable * 16;
}

/** Both values of a switch, or the one that the config has set. */
function given(option: unknown, meaning: (option: unknown) => boolean): boolean[] {
  return option === undefined ? [true, false] : [meaning(option)];
}

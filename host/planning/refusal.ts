import { formatBytes } from '../disk.ts';
import { TemperError } from '../errors.ts';
import { globalBatchOf, offloadedBytes } from './candidates.ts';
import { contextBytes, fullParameters, loraParameters, predictMemory, type Sharding } from './memory.ts';
import type { PlanFacts, Weighed } from './plan.ts';

/** Why no way to train fits, and what would: the HostError that ends the run before a GPU is used. */
export function refusal(facts: PlanFacts, ways: Weighed[], available: number): TemperError {
  const { gpus } = facts;
  const least = [...ways].sort((a, b) => a.memory.total - b.memory.total)[0];
  if (least === undefined) return new TemperError('ConfigError', unevenBatch(facts));
  const method = least.finetuning;
  const has = `${gpus.length} × ${gpus[0]?.name ?? 'GPU'} with ${formatBytes(available + contextBytes)} free`;
  const total = Math.max(...gpus.map(({ totalMemoryBytes }) => totalMemoryBytes));
  const isHeld = least.memory.total <= total - contextBytes && available < least.memory.total;
  const needs = `${formatBytes(least.memory.total + contextBytes)} on each of ${least.gpus} GPU${least.gpus === 1 ? '' : 's'}`;
  const states = formatBytes(least.memory.weights + least.memory.optimizer);
  const fixes = isHeld ? holders(facts) : fixesFor(facts, least, available);
  return new TemperError(
    'HostError',
    `This training does not fit: ${method} of this model needs at least ${needs} (weights and optimizer ${states}, ` +
      `the rest for one row of ${facts.rows.longest} tokens), and the host has ${has}. What would do: ${fixes.join('; or ')}.`,
  );
}

/** The config's numbers leave no cut of the global batch. */
function unevenBatch({ options, wishes, gpus }: PlanFacts): string {
  const count = Math.max(1, Math.min(gpus.length, wishes.gpus ?? gpus.length));
  const batch = globalBatchOf(options, wishes, count);
  const said = ['per_device_train_batch_size', 'gradient_accumulation_steps']
    .filter((name) => options[name] !== undefined)
    .map((name) => `train.${name}: ${String(options[name])}`);
  return (
    `plan.globalBatchSize: ${batch} can't be cut as the config wants it (${said.join(', ')}) on ${count} GPU${count === 1 ? '' : 's'}; ` +
    'leave those out of train, or make the global batch a multiple of them.'
  );
}

function holders({ gpus }: PlanFacts): string[] {
  const held = gpus.flatMap(({ index, holders: processes }) =>
    processes.map(({ pid, name, bytes }) => `process ${pid} (${name}, ${formatBytes(bytes)} of GPU ${index})`),
  );
  return [held.length === 0 ? "free the GPU's memory" : `stop ${held.join(', ')}`];
}

function fixesFor(facts: PlanFacts, least: Weighed, available: number): string[] {
  const { shape, rows, options } = facts;
  const fixes: string[] = [];
  const smallest = { ...least, shape, microBatch: 1, ...longestRow(rows) };
  if (least.finetuning !== 'lora') {
    const lora = predictMemory({
      ...smallest,
      finetuning: 'lora',
      trainable: loraParameters(shape, 8),
      sharding: 'none',
      gpus: 1,
    });
    if (lora.total <= available) fixes.push(`train.finetuning_type: lora (${formatBytes(lora.total + contextBytes)})`);
  }
  fixes.push(...shares(facts, least, available));
  if (least.finetuning === 'lora' && options.quantization_bit == null) {
    const small = predictMemory({ ...smallest, quantizationBits: 4, sharding: 'none', gpus: 1 });
    if (small.total <= available)
      fixes.push(
        `train.quantization_bit: 4 with bitsandbytes (${formatBytes(small.total + contextBytes)}; another, coarser training)`,
      );
  }
  fixes.push(`a GPU with ${formatBytes(roundUp(alone(facts, least)))}`);
  return fixes;
}

/** How many such GPUs would do when they share the model, and with the optimizer in the host's memory. */
function shares(facts: PlanFacts, least: Weighed, available: number): string[] {
  const stage3 = onGpus(facts, "DeepSpeed's ZeRO stage 3", gpusSharing(facts, least, 'zero3', available));
  if (least.finetuning === 'lora') return stage3;
  const count = gpusSharing(facts, least, 'zero3-offload', available);
  const needs = offloadedBytes(least.trainable) / 0.8;
  const offloading = "DeepSpeed's ZeRO stage 3 with offloading";
  if (needs <= facts.hostMemoryBytes || count === undefined) return [...stage3, ...onGpus(facts, offloading, count)];
  return [
    ...stage3,
    `${formatBytes(needs)} of host memory, for ${offloading} on ${count} such GPU${count === 1 ? '' : 's'}`,
  ];
}

function onGpus({ gpus, installed }: PlanFacts, how: string, count: number | undefined): string[] {
  if (count === undefined) return [];
  if (count > gpus.length) return [`${count} such GPUs with ${how}`];
  return installed.deepspeed ? [] : [`installing DeepSpeed (docs/plans.md): ${how} on ${count} of these GPUs`];
}

/** The fewest GPUs that fit the training when they share the model. */
function gpusSharing(
  { shape, rows }: PlanFacts,
  least: Weighed,
  sharding: Sharding,
  available: number,
): number | undefined {
  const smallest = { ...least, shape, sharding, microBatch: 1, ...longestRow(rows) };
  const counts = sharding === 'zero3' ? [2, 4, 8, 16, 32] : [1, 2, 4, 8, 16, 32];
  return counts.find((gpus) => predictMemory({ ...smallest, gpus }).total * 1.1 <= available);
}

/** What a row of the longest takes, as predictMemory wants it. */
function longestRow({ longest, mostPictureTokens, answerSpan }: PlanFacts['rows']) {
  return { tokens: longest, pictureTokens: mostPictureTokens, answerSpan };
}

/** What one GPU alone would need. */
function alone({ shape, rows, options }: PlanFacts, least: Weighed): number {
  const trainable =
    least.finetuning === 'lora'
      ? least.trainable
      : fullParameters(shape, { freezeText: options.freeze_language_model === true });
  const facts = { ...least, trainable, shape, microBatch: 1, ...longestRow(rows) };
  return (
    predictMemory({ ...facts, sharding: 'none', gpus: 1, gradientCheckpointing: true }).total * 1.05 + contextBytes
  );
}

/** To a size that GPUs come in. */
function roundUp(bytes: number): number {
  const sizes = [16, 24, 32, 40, 48, 80, 96, 141, 192];
  return (sizes.find((size) => size * 2 ** 30 * 0.98 >= bytes) ?? Math.ceil(bytes / 2 ** 30)) * 2 ** 30;
}

import { type Card } from './cards.ts';
import type { ModelShape } from './model-shape.ts';
import type { TrainingMethod } from './memory.ts';

/** What decides how long an optimizer step takes. */
export interface PaceFacts extends TrainingMethod {
  shape: ModelShape;
  /** Undefined for a GPU that is not listed. */
  card: Card | undefined;
  microBatch: number;
  accumulation: number;
  /** Tokens of a row with padding; those of its pictures; those of its answers. */
  tokens: number;
  pictureTokens: number;
  answerTokens: number;
}

/** Measured with bench/gpu/train.py and bench/gpu/memory.py on four H100 and two H200 hosts; docs/log.md. */
const measured = {
  /** Seconds that a host needs for each decoder layer to launch a micro-step's kernels, however few tokens it has. */
  launch: { checkpointed: 0.011, kept: 0.0085 },
  /** Full fine-tuning launches no LoRA branches; compiled layers and Liger's launch fewer kernels. */
  launchWithoutLora: 0.6,
  launchFused: 0.6,
  /** Share of a GPU's peak that a micro-step reaches once launches don't bound it; most of the rest are element-wise kernels. */
  efficiency: { eager: 0.22, compiled: 0.31, liger: 0.38 },
  optimizerStep: 0.02,
};

/** Seconds that the first two steps of a compiled model take: row lengths vary, so the second compiles once more. */
export const COMPILE_SECONDS = 75;

/** Bytes a second between two GPUs of a host without NVLink. */
const PCIE_BYTES_PER_SECOND = 12e9;

/**
 * Seconds of an optimizer step: for each micro-step the larger of what launching its kernels and what its arithmetic takes
 * (joined smoothly), then the optimizer, and what the GPUs have to tell each other. Good to about 30 % on a GPU that has been
 * measured, worse elsewhere.
 */
export function predictStepSeconds(facts: PaceFacts): number {
  const { shape, finetuning, gradientCheckpointing, compiled, liger, accumulation, card } = facts;
  const perLayer = gradientCheckpointing ? measured.launch.checkpointed : measured.launch.kept;
  const launch =
    shape.text.layers *
    perLayer *
    (finetuning === 'lora' ? 1 : measured.launchWithoutLora) *
    (compiled || liger ? measured.launchFused : 1);
  const peak = peakFlops(card, facts.precision);
  const efficiency = measured.efficiency[liger ? 'liger' : compiled ? 'compiled' : 'eager'];
  const compute = microStepFlops(facts) / (peak * efficiency);
  const microStep = (launch ** 3 + compute ** 3) ** (1 / 3) + gatherSeconds(facts);
  return accumulation * microStep + measured.optimizerStep + optimizerSeconds(facts) + reduceSeconds(facts);
}

/**
 * FLOPs that a micro-step does on one GPU: 2 a parameter and token forward, 2 back through the frozen weights, 2 more for the
 * gradients of trained ones, 2 again where the forward pass is repeated; the vision tower's patches (forward only while it is
 * frozen), and the head at the answers alone. Attention's own products are left out: below 5 % at these lengths.
 */
function microStepFlops(facts: PaceFacts): number {
  const { shape, microBatch, finetuning, gradientCheckpointing } = facts;
  const { parameters, vision } = shape;
  const perParameter = 4 + (finetuning === 'lora' ? 0 : 2) + (gradientCheckpointing ? 2 : 0);
  const text = parameters.text * perParameter * facts.tokens;
  const seen = 2 * (parameters.vision + parameters.merger) * facts.pictureTokens * vision.merge ** 2;
  const head = parameters.embedding * perParameter * facts.answerTokens;
  return microBatch * (text + seen + head);
}

/** Peak FLOP/s for a precision; a GPU that is not listed is taken for a middling one. */
function peakFlops(card: Card | undefined, precision: PaceFacts['precision']): number {
  if (card === undefined) return 100e12;
  return (precision === 'bf16' ? card.bf16Flops : undefined) ?? card.fp16Flops;
}

/** Adam reads and writes about 28 bytes a trained parameter. */
function optimizerSeconds({ trainable, card, sharding, gpus }: PaceFacts): number {
  if (sharding === 'zero3-offload') return (trainable * 28) / gpus / 20e9;
  return (trainable * 28) / (sharding === 'none' ? 1 : gpus) / (card?.bandwidth ?? 0.5e12);
}

/** ZeRO stage 3 brings each layer's weights together forward and backward, in every micro-step. */
function gatherSeconds({ shape, sharding, gpus }: PaceFacts): number {
  if (sharding !== 'zero3' && sharding !== 'zero3-offload') return 0;
  const bytes = 2 * (shape.parameters.text + shape.parameters.embedding);
  return (
    (3 * bytes * (gpus - 1)) / gpus / PCIE_BYTES_PER_SECOND + (gpus === 1 ? (2 * bytes) / PCIE_BYTES_PER_SECOND : 0)
  );
}

/** The gradients are brought together once a step. */
function reduceSeconds({ trainable, finetuning, gpus }: PaceFacts): number {
  if (gpus === 1) return 0;
  return (2 * trainable * (finetuning === 'lora' ? 4 : 2)) / PCIE_BYTES_PER_SECOND;
}

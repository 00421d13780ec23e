import { linearLayers, totalParameters, type ModelShape } from './model-shape.ts';

/** How weights, gradients and optimizer are held by several GPUs; none: each has all of them. */
export type Sharding = 'none' | 'zero2' | 'zero3' | 'zero3-offload';

/** `fp16-from-bf16`: fp16 from a base that is stored in bf16, which autocast casts again and again. */
export type TrainingPrecision = 'bf16' | 'fp16' | 'fp16-from-bf16' | 'none';

/** How a training is done, whatever its cut: what its memory and its pace are predicted from. */
export interface TrainingMethod {
  finetuning: 'lora' | 'full' | 'freeze';
  /** Parameters that are trained. */
  trainable: number;
  precision: TrainingPrecision;
  gradientCheckpointing: boolean;
  compiled: boolean;
  /** With Liger's fused kernels (`enable_liger_kernel`). */
  liger?: boolean | undefined;
  sharding: Sharding;
  gpus: number;
}

/** What decides how much memory of a GPU a training takes. */
export interface MemoryFacts extends TrainingMethod {
  shape: ModelShape;
  /** 4 or 8 with `quantization_bit`. */
  quantizationBits?: number | undefined;
  /** `pure_bf16`: trained weights, gradients and optimizer in bf16. */
  pureBf16: boolean;
  /** Rows at once on a GPU, and tokens of each with padding. */
  microBatch: number;
  tokens: number;
  /** Of those of a row, its pictures'. */
  pictureTokens: number;
  /** Positions of a row whose logits are computed. */
  answerSpan: number;
}

/** Bytes of one GPU at the worst micro-batch; `total` is what PyTorch reserves, without CUDA's own context. */
export interface MemoryPrediction {
  weights: number;
  optimizer: number;
  activations: number;
  logits: number;
  total: number;
}

/**
 * Fitted to peaks measured at Qwen3-VL-4B's and 8B's true shape (bench/gpu/memory.py, bench/gpu/train.py), of which
 * test/host/planning/memory.test.ts says how far off each is.
 */
const fitted = {
  /** What a decoder layer keeps for its backward pass, as a share of the tensors counted by `layerBytesPerToken`. */
  kept: 0.775,
  /** The same of a compiled layer, which keeps fewer of them. */
  keptCompiled: 0.6,
  /** The same with Liger's kernels. */
  keptLiger: 0.54,
  /** Bytes a logit: its float copy, the log-softmax and their gradients, not all at once. */
  logit: 9.2,
  /** What the allocator holds beyond what is in use: bytes a logit, and a share of all that is no weight or state. */
  slack: { logit: 3, share: 0.025 },
};

const CONTEXT_BYTES = 0.7 * 2 ** 30;

/** Bytes of a GPU that are no tensors' (CUDA's context and libraries), beside what PyTorch reserves. */
export const contextBytes = CONTEXT_BYTES;

/**
 * The peak of a training step: weights, gradients and optimizer state, what the backward pass needs kept (with gradient
 * checkpointing each layer's input and one layer in full), and the logits at the answers' positions, which
 * `trainer/token_mean_loss.py` computes alone.
 */
export function predictMemory(facts: MemoryFacts): MemoryPrediction {
  const { shape, microBatch, tokens, pictureTokens, answerSpan, gradientCheckpointing } = facts;
  const { weights, optimizer } = stateBytes(facts);
  const perLayer = layerBytesPerToken(shape.text) * keptShare(facts);
  const perToken = gradientCheckpointing
    ? shape.text.layers * shape.text.hidden * 2 + perLayer
    : shape.text.layers * perLayer;
  const pictures = pictureTokens * pictureBytesPerToken(shape);
  const count = microBatch * answerSpan * shape.text.vocab;
  const activations = microBatch * (tokens * perToken + pictures) + castBytes(facts);
  const logits = count * fitted.logit;
  const working = (activations + logits) * (1 + fitted.slack.share) + count * fitted.slack.logit;
  return {
    weights,
    optimizer,
    activations,
    logits,
    total: weights + optimizer + workingBesideGradients(facts, working),
  };
}

function keptShare({ compiled, liger }: MemoryFacts): number {
  if (liger) return fitted.keptLiger;
  return compiled ? fitted.keptCompiled : fitted.kept;
}

/**
 * Full fine-tuning peaks in the optimizer's step, with two 16-bit copies' worth of the embedding beside the states: where the
 * backward pass begins no gradient is there yet, and their room holds activations.
 */
function workingBesideGradients(facts: MemoryFacts, working: number): number {
  if (facts.finetuning === 'lora' || facts.sharding !== 'none') return working;
  const gradients = facts.trainable * (facts.pureBf16 ? 2 : 4);
  return Math.max(0, working - gradients) + 4 * facts.shape.parameters.embedding;
}

/** 16-bit copies of weights in another type, which autocast makes: all of them are kept unless layers are computed twice. */
function castBytes({ shape, precision, gradientCheckpointing, finetuning, pureBf16 }: MemoryFacts): number {
  const { text, embedding } = shape.parameters;
  const isCast = finetuning === 'lora' ? precision === 'fp16-from-bf16' : !pureBf16;
  if (!isCast) return 0;
  return 2 * (gradientCheckpointing ? embedding : text + embedding);
}

/** Pixels in fp32, and the features that the vision tower hands to the text: at its end and from deepstack's layers. */
function pictureBytesPerToken({ vision, text }: ModelShape): number {
  const pixels = 3 * vision.temporalPatch * vision.patch ** 2 * vision.merge ** 2 * 4;
  return pixels + (1 + vision.deepstackLayers) * text.hidden * 2;
}

/** Parameters that `lora_target` (names with commas, or `all`: every linear layer of the text model) gives LoRA of this rank. */
export function loraParameters({ text }: ModelShape, rank: number, target: string | string[] = 'all'): number {
  const names = Array.isArray(target) ? target : target.split(',').map((name) => name.trim());
  const layers = Object.entries(linearLayers(text));
  const wanted = names.includes('all') ? layers : layers.filter(([name]) => names.includes(name));
  return text.layers * wanted.reduce((sum, [, [inputs, outputs]]) => sum + rank * (inputs + outputs), 0);
}

/** Parameters that full fine-tuning trains; LLaMA-Factory freezes the vision tower and its merger unless told otherwise. */
export function fullParameters(
  { parameters }: ModelShape,
  { freezeVision = true, freezeMerger = true, freezeText = false } = {},
): number {
  const { text, embedding, head, vision, merger } = parameters;
  return (freezeText ? 0 : text + embedding + head) + (freezeVision ? 0 : vision) + (freezeMerger ? 0 : merger);
}

function stateBytes(facts: MemoryFacts): { weights: number; optimizer: number } {
  const { shape, trainable, finetuning, gpus, sharding } = facts;
  const all = totalParameters(shape);
  if (finetuning === 'lora') {
    const base = facts.quantizationBits === undefined ? all * 2 : quantizedBytes(shape, facts.quantizationBits);
    const weights =
      sharding === 'zero3' ? base / gpus + gathered(shape) : sharding === 'zero3-offload' ? gathered(shape) : base;
    return { weights, optimizer: trainable * 16 };
  }
  const frozen = (all - trainable) * 2;
  if (sharding === 'none') {
    const [weight, state] = facts.pureBf16 ? [2, 6] : [4, 12];
    return { weights: frozen + trainable * weight, optimizer: trainable * state };
  }
  // DeepSpeed trains 16-bit weights and keeps fp32 master weights and Adam's moments, split among the GPUs.
  if (sharding === 'zero2') return { weights: frozen + trainable * 2, optimizer: (trainable * (12 + 2)) / gpus };
  const weights = (frozen + trainable * 2) / gpus + gathered(shape);
  return { weights, optimizer: sharding === 'zero3' ? (trainable * (12 + 2)) / gpus : (trainable * 2) / gpus };
}

/** ZeRO stage 3 holds the layer at work and the next one whole, and once the embedding. */
function gathered({ text, parameters }: ModelShape): number {
  return 2 * 2 * (parameters.text / text.layers) + 2 * parameters.embedding;
}

/** Linear layers of the text in `bits`, with 4.5 % for their scales, the rest in 16 bits. */
function quantizedBytes({ parameters }: ModelShape, bits: number): number {
  const { text, ...rest } = parameters;
  return (text * bits * 1.045) / 8 + Object.values(rest).reduce((sum, count) => sum + count, 0) * 2;
}

/**
 * Bytes that one decoder layer with LoRA keeps for a token, counted from transformers' Qwen3VLTextDecoderLayer under autocast:
 * two RMSNorms (fp32 input, fp32 normed, 16-bit out: 10 bytes an element), q and k norms, query, keys, values and output of
 * the attention, and gate, activation, up and product of the MLP; the adapters' inputs are those tensors themselves.
 */
function layerBytesPerToken({ hidden, intermediate, heads, kvHeads, headDim }: ModelShape['text']): number {
  const [query, keyValue] = [heads * headDim, kvHeads * headDim];
  return 24 * hidden + 14 * query + 14 * keyValue + 8 * intermediate;
}

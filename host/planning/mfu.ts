import { cardOf, type Card } from './cards.ts';
import { linearLayers, type ModelShape } from './model-shape.ts';

/** What an optimizer step asked of the model over all GPUs, as `trainer/step_work.py` counts it. */
export interface StepWork {
  /** Without padding. */
  tokens: number;
  /** Pairs of a token and one that it sees, itself included: T × (T + 1) / 2 for a row of T. */
  attendedPairs: number;
  patches: number;
  /** Pairs of patches that see each other: P × P for a picture of P. */
  patchPairs: number;
  /** Positions at which the head was computed. */
  logitPositions: number;
}

/** Which of LLaMA-Factory's options say what is trained. */
export type TrainedParts = Record<string, unknown>;

/** The hardware and the trainable parameters, as the trainer told in its event `setup`. */
export interface Setup {
  /** GPU's name, `cpu` for none. */
  device: string;
  devices: number;
  precision: 'bf16' | 'fp16' | 'fp32';
  trainableParameters: number;
}

/** Multiply and add are two operations. */
const FORWARD = 2;
/** Through frozen weights only the gradient of the activations is computed, for trained ones that of the weights, too. */
const THROUGH = 2 * FORWARD;
const TRAINED = 3 * FORWARD;
const CHANNELS = 3;

/**
 * The FLOPs that a step of this training is made of, after "model FLOPs" of PaLM (Chowdhery et al. 2022,
 * https://arxiv.org/abs/2204.02311, appendix B, 6N + 12·L·H·Q·T a token), with these differences:
 *
 * - A frozen weight costs 4 a token (forward 2, backward to the activations 2), a trained one 6, and one that no gradient has
 *   to pass 2. So LoRA costs 4N a token and 6 for each of its own parameters, all of which are taken to be the text model's.
 * - Attention (QKᵀ and its product with V) is counted where a token looks, which is half of PaLM's 12·L·H·Q·T: 4·L·H·Q a
 *   pair forward, twice that backward.
 * - The vision tower and the merger are counted a patch, the tower's attention 4·L·hidden a pair of patches; forward alone
 *   while they are frozen and nothing below them is trained.
 * - The head is counted at the positions at which the trainer computes it, the answers' (`trainer/token_mean_loss.py`); the
 *   embedding is a look-up and costs nothing.
 * - Padding, norms, activations and the optimizer are left out; so is what gradient checkpointing computes again, which
 *   would make it hardware FLOPs (HFU).
 *
 * Undefined where the formula does not hold: `freeze` tuning and additional_target.
 */
export function stepFlops(
  shape: ModelShape,
  options: TrainedParts,
  trainableParameters: number,
  work: StepWork,
): number | undefined {
  const method = options.finetuning_type ?? 'lora';
  if ((method !== 'lora' && method !== 'full') || options.additional_target != null) return undefined;
  const trains = (flag: string, byDefault: boolean) => (options[flag] ?? byDefault) !== true;
  const trained = method === 'full' ? TRAINED : THROUGH;
  const [tower, merger] = [trains('freeze_vision_tower', true), trains('freeze_multi_modal_projector', true)];
  const towerCost = tower ? trained : FORWARD;
  const mergerCost = merger ? trained : tower ? THROUGH : FORWARD;
  const textCost = trains('freeze_language_model', false) ? trained : THROUGH;

  const { text, vision } = shape;
  const adapters = method === 'lora' ? TRAINED * trainableParameters * work.tokens : 0;
  const attention = 2 * TRAINED * text.layers * text.heads * text.headDim * work.attendedPairs;
  const head = textCost * text.vocab * text.hidden * work.logitPositions;
  const patchAttention = 2 * (tower ? TRAINED : FORWARD) * vision.layers * vision.hidden * work.patchPairs;
  return (
    textCost * textMatrices(shape) * work.tokens +
    adapters +
    attention +
    head +
    towerCost * visionMatrices(shape) * work.patches +
    (towerCost === TRAINED ? TRAINED - FORWARD : FORWARD) * patchEmbedding(shape) * work.patches + // pixels get no gradient
    patchAttention +
    (mergerCost * shape.parameters.merger * work.patches) / vision.merge ** 2
  );
}

/**
 * Model FLOPs utilization: the FLOPs of the steps over what their GPUs could have done in the same seconds, by the vendors'
 * data sheets (`cards.ts`). Undefined on a CPU, an unlisted GPU, in fp32, or where the FLOPs of a step are not known.
 */
export function modelFlopsUtilization(
  steps: { flops: number | undefined; seconds: number; setup: Setup | undefined }[],
): number | undefined {
  let [done, possible] = [0, 0];
  for (const { flops, seconds, setup } of steps) {
    const peak = setup && peakFlops(cardOf(setup.device), setup.precision);
    if (flops === undefined || setup === undefined || peak === undefined) return undefined;
    done += flops;
    possible += seconds * setup.devices * peak;
  }
  return possible > 0 ? done / possible : undefined;
}

/** Dense FLOP/s of a card's matrix units; undefined where it has none for the type. */
function peakFlops(card: Card | undefined, precision: Setup['precision']): number | undefined {
  return { bf16: card?.bf16Flops, fp16: card?.fp16Flops, fp32: undefined }[precision];
}

/** Weights of the decoder's matrix products. */
function textMatrices({ text }: ModelShape): number {
  return text.layers * Object.values(linearLayers(text)).reduce((sum, [inputs, outputs]) => sum + inputs * outputs, 0);
}

/** Weights of the matrix products of the vision tower's layers. */
function visionMatrices({ vision: { layers, hidden, intermediate } }: ModelShape): number {
  return layers * (4 * hidden * hidden + 2 * hidden * intermediate);
}

function patchEmbedding({ vision: { hidden, patch, temporalPatch } }: ModelShape): number {
  return CHANNELS * temporalPatch * patch ** 2 * hidden;
}

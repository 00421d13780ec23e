import { join } from 'node:path';
import { TemperError } from '../errors.ts';
import { readJson } from '../state-file.ts';

/** What a Qwen3-VL's `config.json` says about its size; parameters are counted as transformers builds the modules. */
export interface ModelShape {
  modelType: string;
  /** Type of the stored weights: `bfloat16`, `float16` or `float32`. */
  dtype: string;
  text: {
    layers: number;
    hidden: number;
    intermediate: number;
    heads: number;
    kvHeads: number;
    headDim: number;
    vocab: number;
    /** The head is the embedding. */
    tied: boolean;
  };
  vision: {
    layers: number;
    hidden: number;
    intermediate: number;
    heads: number;
    patch: number;
    /** A picture token stands for `merge` × `merge` patches. */
    merge: number;
    temporalPatch: number;
    outHidden: number;
    deepstackLayers: number;
  };
  parameters: {
    /** Decoder layers and norms. */
    text: number;
    embedding: number;
    /** 0 when tied. */
    head: number;
    vision: number;
    /** What brings picture features to the text's width, deepstack's too. */
    merger: number;
  };
}

type Json = Record<string, unknown>;

/** Read a model folder's shape. Throws ConfigError for a folder that holds no dense Qwen3-VL. */
export async function readModelShape(folder: string): Promise<ModelShape> {
  const path = join(folder, 'config.json');
  const config = await readJson<Json>(path);
  if (config === undefined) throw new TemperError('ConfigError', `${path} is missing, so the model's size is unknown.`);
  const modelType = String(config.model_type);
  if (modelType !== 'qwen3_vl')
    throw new TemperError('ConfigError', `${path} has model_type ${modelType}; a plan is made for qwen3_vl only.`);
  return shapeOf(config, path);
}

/** The shape that a Qwen3-VL's config describes; `path` is named by errors. */
export function shapeOf(config: Json, path = 'config.json'): ModelShape {
  const ofText = reader((config.text_config ?? {}) as Json, `${path}, text_config`);
  const ofVision = reader((config.vision_config ?? {}) as Json, `${path}, vision_config`);
  const [hidden, heads] = [ofText('hidden_size'), ofText('num_attention_heads')];
  const text: ModelShape['text'] = {
    layers: ofText('num_hidden_layers'),
    hidden,
    intermediate: ofText('intermediate_size'),
    heads,
    kvHeads: ofText('num_key_value_heads', heads),
    headDim: ofText('head_dim', Math.floor(hidden / heads)),
    vocab: ofText('vocab_size'),
    tied: config.tie_word_embeddings === true,
  };
  const { deepstack_visual_indexes: deepstack } = (config.vision_config ?? {}) as Json;
  const vision: ModelShape['vision'] = {
    layers: ofVision('depth'),
    hidden: ofVision('hidden_size'),
    intermediate: ofVision('intermediate_size'),
    heads: ofVision('num_heads'),
    patch: ofVision('patch_size'),
    merge: ofVision('spatial_merge_size'),
    temporalPatch: ofVision('temporal_patch_size'),
    outHidden: ofVision('out_hidden_size'),
    deepstackLayers: Array.isArray(deepstack) ? deepstack.length : 0,
  };
  return {
    modelType: 'qwen3_vl',
    dtype: dtypeOf(config),
    text,
    vision,
    parameters: {
      text: text.layers * layerParameters(text) + text.hidden,
      embedding: text.vocab * text.hidden,
      head: text.tied ? 0 : text.vocab * text.hidden,
      vision: visionParameters(vision, ofVision('in_channels', 3), ofVision('num_position_embeddings', 2304)),
      merger: mergerParameters(vision),
    },
  };
}

/** All parameters of the model. */
export function totalParameters({ parameters }: ModelShape): number {
  return Object.values(parameters).reduce((sum, count) => sum + count, 0);
}

/** [inputs, outputs] of each linear layer of one decoder layer, by the name that `lora_target` takes. */
export function linearLayers({ hidden, intermediate, heads, kvHeads, headDim }: ModelShape['text']) {
  const [query, keyValue] = [heads * headDim, kvHeads * headDim];
  return {
    q_proj: [hidden, query],
    k_proj: [hidden, keyValue],
    v_proj: [hidden, keyValue],
    o_proj: [query, hidden],
    gate_proj: [hidden, intermediate],
    up_proj: [hidden, intermediate],
    down_proj: [intermediate, hidden],
  } as const satisfies Record<string, readonly [number, number]>;
}

function layerParameters(text: ModelShape['text']): number {
  const linear = Object.values(linearLayers(text)).reduce((sum, [inputs, outputs]) => sum + inputs * outputs, 0);
  return linear + 2 * text.hidden + 2 * text.headDim;
}

function visionParameters(vision: ModelShape['vision'], channels: number, positions: number): number {
  const { layers, hidden, intermediate, patch, temporalPatch } = vision;
  const attention = 4 * hidden * hidden + 4 * hidden;
  const mlp = 2 * hidden * intermediate + intermediate + hidden;
  const patches = channels * temporalPatch * patch * patch * hidden + hidden;
  return layers * (attention + mlp + 4 * hidden) + patches + positions * hidden;
}

/** One merger, and one for each deepstack layer, whose norm is over the merged width. */
function mergerParameters({ hidden, merge, outHidden, deepstackLayers }: ModelShape['vision']): number {
  const width = hidden * merge * merge;
  const linear = width * width + width + width * outHidden + outHidden;
  return linear + 2 * hidden + deepstackLayers * (linear + 2 * width);
}

/** Published checkpoints have it in the text part only; older ones as torch_dtype. */
function dtypeOf(config: Json): string {
  const text = (config.text_config ?? {}) as Json;
  const said = config.dtype ?? config.torch_dtype ?? text.dtype ?? text.torch_dtype;
  return typeof said === 'string' ? said : 'bfloat16';
}

function reader(section: Json, where: string): (name: string, standard?: number) => number {
  return (name, standard) => {
    const value = section[name] ?? standard;
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    throw new TemperError('ConfigError', `${where}: ${name} is missing or no number, so the model's size is unknown.`);
  };
}

import { options } from './llamafactory-options.ts';

export type OptionName = keyof typeof options;

/** Whether LLaMA-Factory has an option of this name. */
export function isOption(name: unknown): name is OptionName {
  return typeof name === 'string' && Object.hasOwn(options, name);
}

/** The numbers that make sense for an option where LLaMA-Factory finds a bad one out late or never. */
export interface Limit {
  above?: number;
  min?: number;
  below?: number;
  max?: number;
  /** A fraction below 1, or a whole number from 1 on. */
  wholeFrom1?: boolean;
  /** Also allowed, outside the range. */
  or?: number;
}

const positive: Limit = { above: 0 };
const notNegative: Limit = { min: 0 };
const atLeast1: Limit = { min: 1 };
const share: Limit = { min: 0, below: 1 };

export const limits: Partial<Record<OptionName, Limit>> = {
  learning_rate: { above: 0, max: 1 },
  num_train_epochs: positive,
  max_steps: { min: 1, or: -1 },
  per_device_train_batch_size: atLeast1,
  per_device_eval_batch_size: atLeast1,
  gradient_accumulation_steps: atLeast1,
  warmup_ratio: { min: 0, max: 1 },
  warmup_steps: notNegative,
  weight_decay: { min: 0, max: 1 },
  adam_beta1: share,
  adam_beta2: share,
  adam_epsilon: positive,
  max_grad_norm: notNegative,
  label_smoothing_factor: share,
  neftune_noise_alpha: notNegative,
  seed: notNegative,
  data_seed: notNegative,
  save_steps: { above: 0, wholeFrom1: true },
  eval_steps: { above: 0, wholeFrom1: true },
  logging_steps: { above: 0, wholeFrom1: true },
  eval_delay: notNegative,
  save_total_limit: atLeast1,
  torch_empty_cache_steps: atLeast1,
  early_stopping_steps: atLeast1,
  cutoff_len: atLeast1,
  val_size: { min: 0, wholeFrom1: true },
  max_samples: atLeast1,
  buffer_size: atLeast1,
  preprocessing_batch_size: atLeast1,
  preprocessing_num_workers: atLeast1,
  dataloader_num_workers: notNegative,
  dataloader_prefetch_factor: atLeast1,
  ddp_timeout: atLeast1,
  ray_num_workers: atLeast1,
  image_max_pixels: atLeast1,
  image_min_pixels: atLeast1,
  video_max_pixels: atLeast1,
  video_min_pixels: atLeast1,
  video_fps: positive,
  video_maxlen: atLeast1,
  lora_rank: atLeast1,
  lora_alpha: atLeast1,
  lora_dropout: share,
  loraplus_lr_ratio: positive,
};

/** Options of which Temper takes fewer values than LLaMA-Factory does, and why. */
export const restricted: Partial<Record<OptionName, { values: readonly (string | boolean)[]; why: string }>> = {
  do_train: { values: [true], why: 'with anything else LLaMA-Factory ends well and has trained nothing' },
  stage: { values: ['sft'], why: 'Temper fine-tunes on conversations' },
  finetuning_type: { values: ['lora', 'full', 'freeze'], why: "LLaMA-Factory can't export an OFT adapter" },
  template: {
    values: ['qwen3_vl_nothink', 'qwen3_vl'],
    why: 'qwen3_vl_nothink is for the Instruct models, qwen3_vl for the Thinking ones',
  },
  infer_backend: { values: ['huggingface'], why: 'LLaMA-Factory trains with no other' },
  pissa_init: { values: [false], why: 'it changes the base, so that the adapter no longer fits the one to merge into' },
  train_from_scratch: { values: [false], why: 'it throws the weights of the base away' },
};

/** Options that a config must have; the rest have LLaMA-Factory's defaults. */
export const requiredOptions = [
  'model_name_or_path',
  'dataset',
  'dataset_dir',
  'template',
] as const satisfies readonly OptionName[];

/** Options that hold a secret, with what does their work in the worker's environment: a config is kept in the run's history. */
export const secrets: Partial<Record<OptionName, string | null>> = {
  hf_hub_token: 'HF_TOKEN',
  hub_token: 'HF_TOKEN',
  ms_hub_token: 'MODELSCOPE_API_TOKEN',
  om_hub_token: null,
  swanlab_api_key: 'SWANLAB_API_KEY',
  swanlab_lark_webhook_url: null,
  swanlab_lark_secret: null,
};

/** By whose rules an option is judged. */
export interface OptionRules {
  /** What stands before an option's name in a path. */
  prefix: string;
  required: readonly OptionName[];
  /** Required ones that another part of the config can stand for; `load.ts` misses them. */
  supplied: readonly OptionName[];
  restricted: typeof restricted;
  secrets: typeof secrets;
}

/** For a config of Temper. */
export const temperRules: OptionRules = {
  prefix: 'train.',
  required: requiredOptions,
  supplied: ['model_name_or_path'],
  restricted,
  secrets,
};

/** For a training YAML that LLaMA-Factory itself reads. */
export const plainRules: OptionRules = {
  prefix: '',
  required: ['model_name_or_path'],
  supplied: [],
  restricted: {},
  secrets: {},
};

/** What Temper decides itself; a value given is accepted, left out of the training, and answered by this sentence. */
export const owned: Partial<Record<OptionName, { unless?: readonly unknown[]; says: string }>> = {
  output_dir: { says: 'training writes to the run directory, train/output' },
  overwrite_output_dir: { unless: [false], says: 'a run goes on from its checkpoints and overwrites nothing' },
  resume_from_checkpoint: { unless: [null], says: 'a run resumes from its newest verified checkpoint by itself' },
  logging_steps: { unless: [1], says: 'every step is logged, to train/events.jsonl' },
  logging_strategy: { unless: ['steps'], says: 'every step is logged, to train/events.jsonl' },
  logging_dir: { says: 'logs are in the run directory' },
  tokenized_path: { unless: [null], says: 'tokenized rows are kept by a digest of data and options' },
  overwrite_cache: { unless: [true], says: "a run never trusts an earlier run's cache of rows" },
  trust_remote_code: { unless: [false], says: 'off: Qwen3-VL needs no code that comes with a model' },
  auto_find_batch_size: {
    unless: [false],
    says: 'out of memory, Temper halves the micro-batch and doubles the accumulation',
  },
  enable_jit_checkpoint: { unless: [false], says: 'asked to stop, Temper writes a checkpoint itself' },
  local_rank: { unless: [-1], says: 'ranks are given by the launcher' },
  export_dir: { unless: [null], says: 'the merged model goes to the run directory, merged' },
};

/** Options that name something on the disk; all must lie inside the worker's roots. */
export const pathOptions: Partial<Record<OptionName, 'folder' | 'file' | 'any' | 'written'>> = {
  model_name_or_path: 'folder',
  adapter_name_or_path: 'folder',
  dataset_dir: 'folder',
  media_dir: 'folder',
  new_special_tokens_config: 'file',
  deepspeed: 'file',
  fsdp_config: 'file',
  accelerator_config: 'file',
  hyper_parallel_args: 'file',
  generation_config: 'any',
  ref_model: 'folder',
  ref_model_adapters: 'folder',
  reward_model: 'folder',
  reward_model_adapters: 'folder',
  kt_weight_path: 'any',
  kt_expert_checkpoint_path: 'any',
  vllm_config: 'file',
  sglang_config: 'file',
  export_quantization_dataset: 'any',
  cache_dir: 'written',
  offload_folder: 'written',
  profiler_output_dir: 'written',
  swanlab_logdir: 'written',
};

/** Names that people know from elsewhere or from older versions, and what to write instead. */
export const formerNames: Record<string, string> = {
  evaluation_strategy: 'eval_strategy',
  no_cuda: 'use_cpu: true',
  group_by_length: 'train_sampling_strategy: group_by_length',
  batch_size: 'per_device_train_batch_size',
  per_gpu_train_batch_size: 'per_device_train_batch_size',
  per_device_batch_size: 'per_device_train_batch_size',
  micro_batch_size: 'per_device_train_batch_size',
  epochs: 'num_train_epochs',
  num_epochs: 'num_train_epochs',
  lr: 'learning_rate',
  lr_scheduler: 'lr_scheduler_type',
  max_seq_length: 'cutoff_len',
  max_seq_len: 'cutoff_len',
  model: 'model_name_or_path',
  model_path: 'model_name_or_path',
  data_path: 'dataset_dir',
  image_resolution: 'image_max_pixels',
  flash_attention: 'flash_attn',
  use_flash_attn: 'flash_attn',
  attn_implementation: 'flash_attn',
  target_modules: 'lora_target',
  lora_target_modules: 'lora_target',
  r: 'lora_rank',
  save_safetensors: 'nothing: weights are always saved as safetensors',
};

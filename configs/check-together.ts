import type { ConfigIssue } from './config-error.ts';
import type { ModelSource } from './schema.ts';
import type { TrainOptions } from './train-options.ts';

/** Sections that passed the schema each on its own; what failed it is left out. */
export interface SoundParts {
  train: Partial<TrainOptions>;
  model?: ModelSource;
  heldOut?: { fraction: number };
  evaluate?: { enabled: boolean };
  deploy?: { host: string; apiPort: number; pagePort: number; apiKeyEnv?: string | undefined };
}

const loopback = new Set(['127.0.0.1', '::1', 'localhost']);

/** Settings that are right one by one and wrong together. */
export function checkTogether({ train, deploy }: SoundParts): ConfigIssue[] {
  const issues: ConfigIssue[] = [];
  const refuse = (path: string, message: string) => issues.push({ path, message: `${path}: ${message}` });

  const evaluates = train.eval_strategy !== undefined && train.eval_strategy !== 'no';
  const validates = (train.val_size ?? 0) > 0;
  const hasAdapter = (train.finetuning_type ?? 'lora') === 'lora';
  const datasets = listOf(train.dataset);
  const adapters = listOf(train.adapter_name_or_path);

  if (train.bf16 === true && train.fp16 === true) {
    refuse(
      'train.fp16',
      'bf16 and fp16 are both true; keep bf16 on GPUs of compute capability 8.0 or newer, fp16 on older ones',
    );
  }
  if (train.pure_bf16 === true && train.fp16 === true)
    refuse('train.fp16', 'pure_bf16 and fp16 are both true; keep one');
  if (evaluates && !validates && train.eval_dataset == null) {
    refuse(
      'train.eval_strategy',
      `${train.eval_strategy} has nothing to evaluate on; add val_size: 0.1 or an eval_dataset, or leave it out`,
    );
  }
  if (validates && train.eval_dataset != null) {
    refuse('train.val_size', 'LLaMA-Factory takes val_size or eval_dataset, not both; leave one out');
  }
  const twice = datasets.find((name, index) => datasets.indexOf(name) !== index);
  if (twice !== undefined)
    refuse('train.dataset', `${twice} is named twice, and LLaMA-Factory uses its rows once; name it once`);
  if (datasets.includes('')) refuse('train.dataset', 'has a comma too many');
  if (train.image_max_pixels !== undefined && train.image_max_pixels < (train.image_min_pixels ?? 1024)) {
    refuse(
      'train.image_max_pixels',
      `${train.image_max_pixels} is smaller than image_min_pixels, ${train.image_min_pixels ?? 1024}`,
    );
  }
  if (train.video_max_pixels !== undefined && train.video_max_pixels < (train.video_min_pixels ?? 256)) {
    refuse(
      'train.video_max_pixels',
      `${train.video_max_pixels} is smaller than video_min_pixels, ${train.video_min_pixels ?? 256}`,
    );
  }
  if (train.streaming === true && (train.max_steps ?? -1) < 1) {
    refuse('train.streaming', 'a stream has no length; add max_steps, or leave streaming out');
  }
  if (!hasAdapter && train.quantization_bit != null) {
    refuse(
      'train.quantization_bit',
      `only LoRA can train on quantized weights; leave it out, or set finetuning_type: lora`,
    );
  }
  if (!hasAdapter && adapters.length > 0)
    refuse('train.adapter_name_or_path', 'only LoRA starts from an adapter; leave it out');
  if (hasAdapter && (adapters.length > 1 || (adapters.length === 1 && train.create_new_adapter === true))) {
    refuse(
      'train.adapter_name_or_path',
      'LLaMA-Factory would merge adapters into the base first, and the new one would fit only that; merge them (temper merge), and use the result as the base',
    );
  }
  for (const name of ['resize_vocab', 'add_tokens', 'add_special_tokens', 'new_special_tokens_config'] as const) {
    const given = train[name];
    if (hasAdapter && given != null && given !== false) {
      refuse(
        `train.${name}`,
        "an adapter doesn't hold new tokens' embeddings; leave it out, or use finetuning_type: full",
      );
    }
  }
  if (
    train.freeze_language_model === true &&
    train.freeze_vision_tower !== false &&
    train.freeze_multi_modal_projector !== false
  ) {
    refuse('train.freeze_language_model', 'everything is frozen; set freeze_vision_tower: false, or leave this out');
  }
  if (
    train.load_best_model_at_end === true &&
    train.eval_strategy !== (train.save_strategy ?? 'steps') &&
    train.save_strategy !== 'best'
  ) {
    refuse(
      'train.load_best_model_at_end',
      `needs eval_strategy: ${train.save_strategy ?? 'steps'}, the same as save_strategy`,
    );
  }
  if (train.dataloader_prefetch_factor != null && (train.dataloader_num_workers ?? 0) === 0) {
    refuse('train.dataloader_prefetch_factor', 'needs dataloader_num_workers of at least 1');
  }
  if (train.adapter_folder != null && /(^\/)|(^|\/)\.\.(\/|$)/.test(train.adapter_folder)) {
    refuse('train.adapter_folder', 'must name a folder inside the adapter');
  }

  if (deploy !== undefined) {
    if (deploy.apiPort === deploy.pagePort && deploy.apiPort !== 0) {
      refuse('deploy.pagePort', `${deploy.pagePort} is the API's port too; give one of them another`);
    }
    if (!loopback.has(deploy.host) && deploy.apiKeyEnv === undefined) {
      refuse(
        'deploy.apiKeyEnv',
        `is missing: with host ${deploy.host} others can reach the API, so it wants a key; name the variable that holds it`,
      );
    }
  }
  return issues;
}

/** The names in a comma-separated string or a list. */
export function listOf(names: string | readonly string[] | null | undefined): string[] {
  if (names == null) return [];
  return typeof names === 'string' ? names.split(',').map((name) => name.trim()) : [...names];
}

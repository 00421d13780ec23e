import type { TrainOptions } from './train-options.ts';
import type { OptionName } from './train-rules.ts';

export type Train = Partial<TrainOptions>;

interface Rule {
  option: OptionName;
  wrong: (train: Train) => boolean;
  says: (train: Train) => string;
}

/** Where Trainer's callbacks can report to. */
const reporters = [
  ...['azure_ml', 'clearml', 'codecarbon', 'comet_ml', 'dagshub', 'dvclive', 'flyte', 'kubeflow', 'mlflow', 'neptune'],
  ...['swanlab', 'tensorboard', 'trackio', 'wandb', 'all', 'none'],
];
const onlyLora = ['loraplus_lr_ratio', 'use_rslora', 'use_dora', 'pissa_init'] as const;
const optimizers = ['use_galore', 'use_apollo', 'use_badam'] as const;
const splitAtCommas = ['add_tokens', 'add_special_tokens'] as const;

/** Options that are right one by one and that LLaMA-Factory refuses together, early or late, or takes for something else. */
const rules: readonly Rule[] = [
  // Precision
  rule(
    'fp16',
    ({ bf16, fp16 }) => bf16 === true && fp16 === true,
    'bf16 and fp16 are both true; keep bf16 on GPUs of compute capability 8.0 or newer, fp16 on older ones',
  ),
  rule(
    'fp16',
    ({ pure_bf16, fp16 }) => pure_bf16 === true && fp16 === true,
    'pure_bf16 and fp16 are both true; keep one',
  ),
  // Rows
  rule('dataset', (train) => twiceIn(train.dataset) !== undefined, tellTwice('dataset')),
  rule('dataset', ({ dataset }) => listOf(dataset).includes(''), 'has a comma too many'),
  rule('eval_dataset', (train) => twiceIn(train.eval_dataset) !== undefined, tellTwice('eval_dataset')),
  rule('eval_dataset', (train) => listOf(train.eval_dataset).includes(''), 'has a comma too many'),
  rule(
    'val_size',
    (train) => validates(train) && train.eval_dataset != null,
    'LLaMA-Factory takes val_size or eval_dataset, not both; leave one out',
  ),
  rule(
    'val_size',
    (train) => validates(train) && train.dataset == null,
    'there is no dataset that it could be part of',
  ),
  rule(
    'mask_history',
    (train) => train.mask_history === true && train.train_on_prompt === true,
    'LLaMA-Factory takes mask_history or train_on_prompt, not both; leave one out',
  ),
  rule(
    'interleave_probs',
    (train) => train.interleave_probs != null && (train.mix_strategy ?? 'concat') === 'concat',
    'belongs to mix_strategy: interleave_under or interleave_over; leave it out, or set one',
  ),
  rule(
    'interleave_probs',
    (train) => listOf(train.interleave_probs).some((text) => text === '' || !Number.isFinite(Number(text))),
    'takes numbers with commas between them, such as "0.7,0.3"',
  ),
  rule('interleave_probs', unevenProbabilities, 'needs one number for each dataset, and for each eval_dataset'),
  rule(
    'streaming',
    (train) => train.streaming === true && (train.max_steps ?? -1) < 1,
    'a stream has no length; add max_steps, or leave streaming out',
  ),
  rule(
    'streaming',
    (train) => train.streaming === true && train.max_samples != null,
    'does not go with max_samples; leave one out',
  ),
  rule(
    'val_size',
    (train) => train.streaming === true && validates(train) && (train.val_size ?? 0) < 1,
    ({ val_size }) => `${val_size} is a share, and a stream has no length; write a whole number of rows`,
  ),
  ...splitAtCommas.map((option) =>
    rule(
      option,
      (train) => Array.isArray(train[option]),
      'LLaMA-Factory takes no list here; write one text with commas',
    ),
  ),
  rule(
    'image_max_pixels',
    (train) => train.image_max_pixels !== undefined && train.image_max_pixels < (train.image_min_pixels ?? 1024),
    (train) => `${train.image_max_pixels} is smaller than image_min_pixels, ${train.image_min_pixels ?? 1024}`,
  ),
  rule(
    'video_max_pixels',
    (train) => train.video_max_pixels !== undefined && train.video_max_pixels < (train.video_min_pixels ?? 256),
    (train) => `${train.video_max_pixels} is smaller than video_min_pixels, ${train.video_min_pixels ?? 256}`,
  ),
  // Evaluation and saving
  rule(
    'eval_strategy',
    (train) => evaluates(train) && !hasEvaluationRows(train),
    ({ eval_strategy }) =>
      `${eval_strategy} has nothing to evaluate on; add val_size: 0.1 or an eval_dataset, or leave it out`,
  ),
  ...(['do_eval', 'do_predict', 'predict_with_generate'] as const).map((option) =>
    rule(
      option,
      (train) => train[option] === true && !evaluates(train) && !hasEvaluationRows(train),
      'has no rows; add val_size: 0.1 or an eval_dataset, or leave it out',
    ),
  ),
  rule(
    'do_predict',
    (train) => train.do_predict === true && train.predict_with_generate !== true,
    'needs predict_with_generate: true',
  ),
  rule(
    'predict_with_generate',
    (train) => train.predict_with_generate === true && train.compute_accuracy === true,
    'does not go with compute_accuracy; leave one out',
  ),
  rule(
    'load_best_model_at_end',
    (train) =>
      train.load_best_model_at_end === true &&
      (train.eval_strategy ?? 'no') !== (train.save_strategy ?? 'steps') &&
      train.save_strategy !== 'best',
    (train) => `needs eval_strategy: ${train.save_strategy ?? 'steps'}, the same as save_strategy`,
  ),
  rule('load_best_model_at_end', savesBetweenEvaluations, 'needs save_steps to be a multiple of eval_steps'),
  rule(
    'report_to',
    (train) => unknownReporter(train) !== undefined,
    (train) => `${unknownReporter(train)} is not one of ${reporters.join(', ')}`,
  ),
  rule(
    'dataloader_prefetch_factor',
    (train) => train.dataloader_prefetch_factor != null && (train.dataloader_num_workers ?? 0) === 0,
    'needs dataloader_num_workers of at least 1',
  ),
  // Method
  rule(
    'quantization_bit',
    (train) => train.quantization_bit != null && !['lora', 'oft'].includes(methodOf(train)),
    'only LoRA can train on quantized weights; leave it out, or set finetuning_type: lora',
  ),
  rule(
    'quantization_bit',
    (train) => train.quantization_bit != null && bitsAreWrong(train),
    ({ quantization_bit }) => `${quantization_bit} is neither 4 nor 8, and bitsandbytes knows no other`,
  ),
  ...(['pissa_init', 'resize_vocab'] as const).map((option) =>
    rule(
      option,
      (train) => train[option] === true && train.quantization_bit != null,
      'does not go with quantization_bit',
    ),
  ),
  rule(
    'quantization_device_map',
    (train) => train.do_train === true && train.quantization_device_map === 'auto',
    'auto is for inference; leave it out to train',
  ),
  rule(
    'adapter_name_or_path',
    (train) => methodOf(train) !== 'lora' && listOf(train.adapter_name_or_path).length > 0,
    'only LoRA starts from an adapter; leave it out',
  ),
  ...onlyLora.map((option) =>
    rule(
      option,
      (train) => train[option] != null && train[option] !== false && methodOf(train) !== 'lora',
      'is for LoRA alone; leave it out, or set finetuning_type: lora',
    ),
  ),
  ...optimizers.map((option) =>
    rule(
      option,
      (train) => train[option] === true && methodOf(train) === 'lora',
      'does not go with LoRA; leave it out, or set finetuning_type: full',
    ),
  ),
  rule(
    'use_llama_pro',
    (train) => train.use_llama_pro === true && methodOf(train) === 'full',
    'is for LoRA and freeze; leave it out',
  ),
  rule(
    'freeze_language_model',
    (train) =>
      train.freeze_language_model === true &&
      train.freeze_vision_tower !== false &&
      train.freeze_multi_modal_projector !== false,
    'everything is frozen; set freeze_vision_tower: false, or leave this out',
  ),
];

/** What of `train`'s options does not fit the others, by the option's name. */
export function checkOptions(train: Train): { option: OptionName; message: string }[] {
  return rules.filter(({ wrong }) => wrong(train)).map(({ option, says }) => ({ option, message: says(train) }));
}

/** The names in a comma-separated string or a list. */
export function listOf(names: string | readonly string[] | null | undefined): string[] {
  if (names == null) return [];
  return typeof names === 'string' ? names.split(',').map((name) => name.trim()) : [...names];
}

function rule(option: OptionName, wrong: Rule['wrong'], says: string | Rule['says']): Rule {
  return { option, wrong, says: typeof says === 'string' ? () => says : says };
}

function validates({ val_size }: Train): boolean {
  return (val_size ?? 0) > 0;
}

function evaluates({ eval_strategy }: Train): boolean {
  return eval_strategy !== undefined && eval_strategy !== 'no';
}

function hasEvaluationRows(train: Train): boolean {
  return validates(train) || train.eval_dataset != null;
}

function methodOf({ finetuning_type }: Train): string {
  return finetuning_type ?? 'lora';
}

function twiceIn(names: string | readonly string[] | null | undefined): string | undefined {
  return listOf(names).find((name, index, all) => all.indexOf(name) !== index);
}

function tellTwice(option: 'dataset' | 'eval_dataset'): Rule['says'] {
  return (train) => `${twiceIn(train[option])} is named twice, and LLaMA-Factory uses its rows once; name it once`;
}

function unevenProbabilities(train: Train): boolean {
  if (train.interleave_probs == null || (train.mix_strategy ?? 'concat') === 'concat') return false;
  const wanted = listOf(train.interleave_probs).length;
  return [train.dataset, train.eval_dataset].some((names) => names != null && listOf(names).length !== wanted);
}

function savesBetweenEvaluations(train: Train): boolean {
  const { load_best_model_at_end, eval_strategy, save_strategy = 'steps', save_steps = 500, eval_steps } = train;
  if (load_best_model_at_end !== true || eval_strategy !== 'steps' || save_strategy !== 'steps') return false;
  const every = eval_steps ?? train.logging_steps ?? 500;
  const mixed = save_steps < 1 !== every < 1;
  return mixed || Math.round(save_steps * 1e6) % Math.round(every * 1e6) !== 0;
}

function unknownReporter({ report_to }: Train): string | undefined {
  const given = report_to == null ? [] : [report_to].flat();
  return given.map(String).find((name) => !reporters.includes(name));
}

function bitsAreWrong({ quantization_method = 'bnb', quantization_bit }: Train): boolean {
  return quantization_method === 'bnb' && quantization_bit !== 4 && quantization_bit !== 8;
}

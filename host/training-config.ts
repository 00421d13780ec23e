import { stringify } from 'yaml';
import type { ResolvedConfig } from '../configs/schema.ts';
import type { RunDirectory } from './run-directory.ts';
import { writeWhole } from './state-file.ts';

/** LLaMA-Factory's options as they stand in a YAML. */
export type TrainingOptions = Record<string, unknown>;

/**
 * The exact options of the run's training: the config's, on the clean rows, with each step logged and checkpoints kept.
 * The clean rows are those that `max_samples` left, so it is not among them.
 * `output_dir` is a folder for whoever runs the YAML by hand; Temper's trainer replaces it by `train/output`.
 */
export function trainingOptions(run: RunDirectory, config: ResolvedConfig, baseFolder: string): TrainingOptions {
  const { media_dir: _media, max_samples: _taken, ...train } = config.train;
  return {
    ...train,
    model_name_or_path: baseFolder,
    dataset: 'train',
    ...(train.eval_dataset === undefined ? {} : { eval_dataset: 'eval' }),
    dataset_dir: run.dataset,
    output_dir: run.trainByHand,
    overwrite_output_dir: false,
    overwrite_cache: true,
    logging_steps: 1,
    save_strategy: train.save_strategy === 'epoch' ? 'epoch' : 'steps',
    save_total_limit: Math.max(2, Number(train.save_total_limit ?? 3)),
    report_to: train.report_to ?? 'none',
  };
}

/**
 * Options that a training's result does not hang on, beyond rounding: the run's own folders, and how a global batch is cut,
 * loaded and shared, which may change while a run goes on.
 */
const indecisive = new Set([
  ...['output_dir', 'dataset_dir', 'model_name_or_path', 'per_device_train_batch_size', 'gradient_accumulation_steps'],
  ...['per_device_eval_batch_size', 'disable_gradient_checkpointing', 'flash_attn', 'torch_compile'],
  ...['dataloader_num_workers', 'preprocessing_num_workers', 'ddp_timeout', 'run_name'],
]);

export interface TrainingInputs {
  options: TrainingOptions;
  globalBatch: number;
  /** Digests of the rows, of the base, and of the adapter that is trained on, null for a new one. */
  dataset: string;
  base: string;
  continuedFrom: string | null;
  versions: Record<string, string>;
}

/** Everything that decides what a training comes to, and nothing else: trainings of equal inputs are one. */
export function decisiveInputs({ options, continuedFrom, ...others }: TrainingInputs): Record<string, unknown> {
  const kept = Object.fromEntries(Object.entries(options).filter(([name]) => !indecisive.has(name)));
  // Trackers decide nothing; left out, they would part trainings of before from themselves.
  const decisive = 'report_to' in kept ? { ...kept, report_to: 'none' } : kept;
  return { options: decisive, ...others, ...(continuedFrom === null ? {} : { continuedFrom }) };
}

/**
 * Write `train/config.yaml`; running `llamafactory-cli train` on it does the same training. YAML 1.1, as LLaMA-Factory reads
 * it: there an unquoted `no` is false.
 */
export async function writeTrainingConfig(run: RunDirectory, options: TrainingOptions): Promise<void> {
  const head = [
    '# What this run trains, for LLaMA-Factory. By hand, the same training:',
    `#   llamafactory-cli train ${run.trainConfig}`,
    '# which writes to output_dir below. The run itself writes to train/output.',
  ];
  await writeWhole(run.trainConfig, `${head.join('\n')}\n${stringify(options, { version: '1.1' })}`);
}

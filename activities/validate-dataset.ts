import { join } from 'node:path';
import type { ResolvedConfig, ResolvedTrainOptions } from '../configs/schema.ts';
import type { TrainOptions } from '../configs/train-options.ts';
import type { OptionName } from '../configs/train-rules.ts';
import { runPython } from '../host/python.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface ValidateDatasetInput {
  config: ResolvedConfig;
}

export interface ValidateDatasetResult extends StageResult {
  rows: number;
  kept: number;
  trainRows: number;
  heldOutRows: number;
  /** sha256 of the kept rows with their pictures' bytes. */
  digest: string;
  reportPath: string;
  problemCount: number;
}

/**
 * Judge every row as LLaMA-Factory would, set the held-out rows apart, write the clean splits into `dataset/`. Runs anew each
 * time, since only reading the rows tells whether they changed; pictures judged before are remembered.
 */
export async function validateDataset(
  { config }: ValidateDatasetInput,
  context: StageContext,
): Promise<ValidateDatasetResult> {
  const { run, settings, signal } = context;
  const answer = await runPython<Omit<ValidateDatasetResult, 'headline'>>(
    'trainer/validate_dataset.py',
    [
      ...validationArguments(config),
      ...['--roots', settings.dataRoots.join(':')],
      ...['--cache-dir', join(settings.home, 'cache/pictures')],
      ...['--out', run.dataset],
    ],
    { cancelSignal: signal, onProgress: (progress) => context.report({ ...progress }) },
  );
  const { rows, kept, trainRows, heldOutRows, digest, reportPath, problemCount } = answer;
  const evalRows = kept - trainRows - heldOutRows;
  const evaluated = evalRows === 0 ? '' : `, ${evalRows} to evaluate on`;
  const dropped = rows === kept ? '' : `, ${rows - kept} dropped`;
  const headline = `${trainRows} rows to train on, ${heldOutRows} held out${evaluated}${dropped}`;
  return { rows, kept, trainRows, heldOutRows, digest, reportPath, problemCount, headline };
}

/** Options of LLaMA-Factory that decide which rows are trained on, and as which tokens; flags of the same name. */
const judged = [
  ...['dataset_dir', 'dataset', 'eval_dataset', 'media_dir', 'template', 'cutoff_len', 'max_samples', 'val_size'],
  ...['image_max_pixels', 'image_min_pixels', 'video_max_pixels', 'video_min_pixels', 'video_fps', 'video_maxlen'],
  ...['default_system', 'tool_format', 'train_on_prompt', 'mask_history', 'preserve_thinking'],
  ...['add_tokens', 'add_special_tokens', 'new_special_tokens_config', 'split_special_tokens'],
  ...['preprocessing_num_workers', 'preprocessing_batch_size', 'seed'],
] as const satisfies readonly OptionName[];

/** The config's part of the command line of `trainer/validate_dataset.py`; with `base` null tokens are not counted. */
export function validationArguments(
  { train, heldOut, dataset }: ResolvedConfig,
  base: string | null = train.model_name_or_path,
): string[] {
  return [
    ...optionArguments(train),
    ...(base === null ? [] : ['--model', base]),
    ...['--held-out-fraction', String(heldOut.fraction)],
    ...['--on-bad-row', dataset.onBadRow],
    ...['--max-drop-fraction', String(dataset.maxDropFraction)],
  ];
}

/** What LLaMA-Factory's options say about the rows, as `trainer/validate_dataset.py` takes it; the base is left out. */
export function optionArguments(train: Partial<TrainOptions> | ResolvedTrainOptions): string[] {
  const flags = judged.flatMap((name) => {
    const value = train[name];
    if (value === undefined || value === null || value === false) return [];
    const flag = `--${name.replaceAll('_', '-')}`;
    return value === true ? [flag] : [`${flag}=${Array.isArray(value) ? value.join(',') : String(value)}`];
  });
  const packed = train.packing === true || train.neat_packing === true ? ['--packing'] : [];
  const thinking = train.enable_thinking === undefined ? [] : ['--enable-thinking', String(train.enable_thinking)];
  return [...flags, ...packed, ...thinking];
}

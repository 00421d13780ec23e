import { join } from 'node:path';
import type { ResolvedConfig } from '../configs/schema.ts';
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
  const judged = await runPython<Omit<ValidateDatasetResult, 'headline'>>(
    'trainer/validate_dataset.py',
    [
      ...validationArguments(config),
      ...['--roots', settings.dataRoots.join(':')],
      ...['--cache-dir', join(settings.home, 'cache/pictures')],
      ...['--out', run.dataset],
    ],
    { cancelSignal: signal, onProgress: (progress) => context.report({ ...progress }) },
  );
  const { rows, kept, trainRows, heldOutRows, digest, reportPath, problemCount } = judged;
  const dropped = rows === kept ? '' : `, ${rows - kept} dropped`;
  const headline = `${trainRows} rows to train on, ${heldOutRows} held out${dropped}`;
  return { rows, kept, trainRows, heldOutRows, digest, reportPath, problemCount, headline };
}

/** The config's part of the command line of `trainer/validate_dataset.py`; with `base` null tokens are not counted. */
export function validationArguments(
  { train, heldOut, dataset }: ResolvedConfig,
  base: string | null = train.model_name_or_path,
): string[] {
  const optional = {
    '--media-dir': train.media_dir,
    '--model': base,
    '--template': train.template,
    '--cutoff-len': train.cutoff_len,
    '--image-max-pixels': train.image_max_pixels,
    '--image-min-pixels': train.image_min_pixels,
    '--held-out-fraction': heldOut.fraction,
    '--on-bad-row': dataset.onBadRow,
    '--max-drop-fraction': dataset.maxDropFraction,
  };
  const required = ['--dataset-dir', String(train.dataset_dir), '--dataset', String(train.dataset)];
  return [
    ...required,
    ...Object.entries(optional).flatMap(([flag, value]) =>
      value === undefined || value === null ? [] : [flag, String(value)],
    ),
  ];
}

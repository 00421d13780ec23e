import { expect, test } from '@jest/globals';
import { validationArguments } from '../../activities/validate-dataset.ts';
import type { ResolvedConfig } from '../../configs/schema.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { decisiveInputs, trainingOptions } from '../../host/training-config.ts';

const config = {
  train: {
    ...{ stage: 'sft', do_train: true, model_name_or_path: '/base', template: 'qwen3_vl_nothink' },
    ...{ dataset: 'a,b', dataset_dir: '/data', media_dir: '/data', eval_dataset: 'c' },
    ...{ max_samples: 7, video_fps: 1, mask_history: true, train_on_prompt: false, neat_packing: true, seed: 5 },
    ...{ enable_thinking: false, default_system: '-v', preprocessing_num_workers: 3, add_tokens: null },
  },
  heldOut: { fraction: 0.1 },
  dataset: { onBadRow: 'fail', maxDropFraction: 0.01 },
} as unknown as ResolvedConfig;

test('the clean rows are trained on whole: the judge has cut them, and named those of eval_dataset', () => {
  const run = openRunDirectory('/runs', 'first');
  const options = trainingOptions(run, config, '/base');
  expect(options).toMatchObject({ dataset: 'train', eval_dataset: 'eval', dataset_dir: run.dataset, video_fps: 1 });
  expect(options).not.toHaveProperty('max_samples');
  expect(options).not.toHaveProperty('media_dir');
});

test('the judge is told every option that decides which rows are trained on, and as what', () => {
  expect(validationArguments(config)).toEqual([
    ...['--dataset-dir=/data', '--dataset=a,b', '--eval-dataset=c', '--media-dir=/data'],
    ...['--template=qwen3_vl_nothink', '--max-samples=7', '--video-fps=1', '--default-system=-v', '--mask-history'],
    ...['--preprocessing-num-workers=3', '--seed=5', '--packing', '--enable-thinking', 'false'],
    ...['--model', '/base', '--held-out-fraction', '0.1', '--on-bad-row', 'fail', '--max-drop-fraction', '0.01'],
  ]);
});

test('a tracker that is added to a config, or a name there, goes on with the training that there is', () => {
  const inputs = (options: Record<string, unknown>) =>
    decisiveInputs({
      ...{ options: { lora_rank: 8, ...options }, globalBatch: 16, dataset: 'rows', base: 'base' },
      ...{ continuedFrom: null, versions: {} },
    });
  expect(inputs({ report_to: ['wandb'], run_name: 'cards' })).toEqual(inputs({ report_to: 'none' }));
  expect(inputs({ lora_rank: 4 })).not.toEqual(inputs({}));
});

import { listOf } from './check-options.ts';
import type { Config, ResolvedConfig, ResolvedTrainOptions } from './schema.ts';
import type { TrainOptions } from './train-options.ts';
import { owned, type OptionName } from './train-rules.ts';

export interface Origin {
  name: string;
  source: string;
}

/** Fill in what the config leaves open; what Temper does otherwise than the config says goes into `notes`. */
export function resolveConfig(config: Config, paths: Record<string, string>, { name, source }: Origin): ResolvedConfig {
  const notes = [...ownedNotes(config.train), ...adviceOn(config.train)];
  const deployName = config.deploy.name ?? deploymentName(name);
  return {
    name,
    source,
    ...config,
    train: resolveTrain(config.train, paths),
    deploy: { ...config.deploy, name: deployName },
    notes,
  };
}

function resolveTrain(train: TrainOptions, paths: Record<string, string>): ResolvedTrainOptions {
  const kept = Object.fromEntries(Object.entries(train).filter(([name]) => owned[name as OptionName] === undefined));
  const { dataset_dir = '', media_dir = dataset_dir, ...otherPaths } = paths;
  return {
    stage: 'sft',
    do_train: true,
    finetuning_type: 'lora',
    ...kept,
    ...otherPaths,
    dataset_dir,
    media_dir,
    dataset: listOf(train.dataset).join(','),
    ...(train.eval_dataset == null ? {} : { eval_dataset: listOf(train.eval_dataset).join(',') }),
    ...evaluationSteps(train),
  } as ResolvedTrainOptions;
}

/** Without eval_steps the trainer evaluates every logging_steps, and Temper logs every step. */
function evaluationSteps(train: TrainOptions): { eval_steps?: number } {
  if (train.eval_strategy !== 'steps' || train.eval_steps != null) return {};
  return { eval_steps: train.logging_steps ?? 500 };
}

function ownedNotes(train: TrainOptions): string[] {
  return Object.entries(owned).flatMap(([name, { unless, says }]) => {
    const value = train[name as OptionName];
    return value === undefined || unless?.includes(value) === true ? [] : [`train.${name} is not used: ${says}`];
  });
}

/** Legal, and probably not what is wanted. */
function adviceOn(train: TrainOptions): string[] {
  const notes: string[] = [];
  if (train.save_strategy === 'no' || train.save_strategy === 'best') {
    notes.push(
      `train.save_strategy ${train.save_strategy}: checkpoints are written every save_steps all the same, so that no crash costs the run`,
    );
  }
  if (train.save_total_limit === 1)
    notes.push('train.save_total_limit 1: the two newest checkpoints are kept, for the newest may be damaged');
  if (train.save_only_model === true)
    notes.push('train.save_only_model: a resumed training starts its optimizer anew and is not the same training');
  if (train.ignore_data_skip === true)
    notes.push('train.ignore_data_skip: a resumed training sees rows again and is not the same training');
  if (train.dataloader_persistent_workers === true)
    notes.push('train.dataloader_persistent_workers: with dropout a resumed training is not exactly the same');
  if (train.enable_liger_kernel === true) notes.push('train.enable_liger_kernel does nothing for Qwen3-VL');
  if (train.neat_packing === true && (train.cutoff_len ?? 2048) % 8 !== 0) {
    notes.push('train.neat_packing has been seen to crash with a cutoff_len that 8 does not divide');
  }
  const base = train.model_name_or_path.toLowerCase();
  if (train.template === 'qwen3_vl' && base.includes('instruct')) {
    notes.push(
      'train.template qwen3_vl trains empty <think> blocks into an Instruct model; qwen3_vl_nothink is made for it',
    );
  }
  if (train.template === 'qwen3_vl_nothink' && base.includes('thinking')) {
    notes.push('train.template qwen3_vl_nothink is made for Instruct models; qwen3_vl for a Thinking one');
  }
  return notes;
}

function deploymentName(configName: string): string {
  const name = configName
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, 40)
    .replace(/^-+|-+$/g, '');
  return name === '' ? 'model' : name;
}

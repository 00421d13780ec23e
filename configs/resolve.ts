import { adviceOnOptions } from './advice.ts';
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
  const advice = adviceOnOptions(config.train, config.model?.source);
  const said = advice.map(({ option, message }) => `train.${option}${message}`);
  const notes = [...ownedNotes(config.train), ...adviceOn(config.train), ...said];
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

/** What is done otherwise about checkpoints. */
function adviceOn(train: TrainOptions): string[] {
  const notes: string[] = [];
  if (train.save_strategy === 'no' || train.save_strategy === 'best') {
    notes.push(
      `train.save_strategy ${train.save_strategy}: checkpoints are written every save_steps all the same, so that no crash costs the run`,
    );
  }
  if (train.save_total_limit === 1)
    notes.push('train.save_total_limit 1: the two newest checkpoints are kept, for the newest may be damaged');
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

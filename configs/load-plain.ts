import { existsSync, readdirSync, statSync } from 'node:fs';
import { extname, join, resolve } from 'node:path';
import { adviceOnOptions } from './advice.ts';
import { checkOptions, listOf, type Train } from './check-options.ts';
import { ConfigError, type ConfigIssue } from './config-error.ts';
import { explainOption, explainUnknownOption, oneOf, show } from './explain-option.ts';
import { templates } from './llamafactory-options.ts';
import { inOrder, isRecord, readConfigFile } from './load.ts';
import { readYaml } from './read-yaml.ts';
import { looksLikeHubId, resolvePaths } from './resolve-paths.ts';
import { configSchema } from './schema.ts';
import { optionSchema } from './train-options.ts';
import { isOption, plainRules, type OptionName } from './train-rules.ts';

/** A training YAML as LLaMA-Factory reads it: what is right of its options, and all that is not. */
export interface PlainYaml {
  /** The options that are right one by one, with absolute paths. */
  train: Train;
  issues: ConfigIssue[];
  warnings: ConfigIssue[];
  /** Whether what `train` says suffices to judge the rows. */
  namesRows: boolean;
}

/** The file's options, checked; undefined when it is no plain YAML. Relative paths start at `workingFolder`. */
export function loadPlain(file: string, shown: string, workingFolder: string): PlainYaml | undefined {
  const { value, issues: unreadable, locate } = readYaml(readConfigFile(file, shown));
  if (unreadable.length > 0) throw new ConfigError(shown, unreadable);
  if (!isRecord(value) || !isPlain(value)) return undefined;
  const given = Object.entries(value);
  const sound: Train = Object.fromEntries(given.filter(([name, option]) => takes(name, option)));
  const { paths, issues: wrongPaths } = resolvePaths(
    { dataset_dir: 'data', ...sound, media_dir: undefined },
    { root: workingFolder },
    { prefix: '' },
  );
  const place = (issue: ConfigIssue) => ({ ...issue, ...locate(issue.path) });
  const issues = [
    ...(value.model_name_or_path === undefined ? [refusal('model_name_or_path', undefined)] : []),
    ...given.filter(([name, option]) => !takes(name, option)).map(([name, option]) => refusal(name, option)),
    ...[...checkOptions(sound), ...checkAlone(sound, workingFolder)]
      .filter(({ option }) => takes(option, value[option]))
      .map(toIssue),
    ...wrongPaths,
  ];
  const media = sound.media_dir == null ? {} : { media_dir: resolve(workingFolder, sound.media_dir) };
  const refused = (name: OptionName) => issues.some(({ path }) => path === name);
  return {
    train: { ...sound, ...paths, ...media },
    issues: inOrder(issues.map(place)),
    warnings: inOrder(adviceOn(sound, extname(file), workingFolder).map(place)),
    namesRows:
      (sound.dataset ?? sound.eval_dataset) != null &&
      !(['dataset', 'dataset_dir', 'eval_dataset', 'media_dir', 'stage'] as const).some(refused),
  };
}

/** Whether these are LLaMA-Factory's options and not a config of Temper: no `train:`, and an option that is no section. */
function isPlain(value: Record<string, unknown>): boolean {
  const isSection = (name: string) => Object.hasOwn(configSchema.shape, name);
  const options = Object.keys(value).filter((name) => isOption(name) && !(isSection(name) && isRecord(value[name])));
  return !('train' in value) && options.length > 0;
}

function takes(name: string, value: unknown): boolean {
  return isOption(name) && optionSchema(name, plainRules).safeParse(value).success;
}

function refusal(name: string, value: unknown): ConfigIssue {
  const message = isOption(name)
    ? explainOption(name, value, plainRules)
    : explainUnknownOption(name, undefined, plainRules);
  return { path: name, message };
}

function toIssue({ option, message }: { option: OptionName; message: string }): ConfigIssue {
  return { path: option, message: `${option}: ${message}` };
}

/** What Temper never lets come so far, and LLaMA-Factory finds out late, or never. */
function checkAlone(train: Train, workingFolder: string): { option: OptionName; message: string }[] {
  const found: { option: OptionName; message: string }[] = [];
  const refuse = (option: OptionName, message: string) => found.push({ option, message });
  const { do_train, do_eval, do_predict, stage = 'sft', template, infer_backend = 'huggingface' } = train;
  if (do_train !== true && do_eval !== true && do_predict !== true)
    refuse(
      'do_train',
      `is ${do_train ?? 'missing'}, and LLaMA-Factory ends well and has trained nothing; write do_train: true`,
    );
  if (do_train === true && train.dataset == null)
    refuse('dataset', 'is missing: the name in dataset_info.json of the rows to train on, such as my_rows');
  if (stage !== 'sft') refuse('stage', `rows for ${stage} cannot be judged here, only those for sft`);
  if (template != null && !templates.some((known) => known === template))
    refuse('template', oneOf(template, templates));
  if (infer_backend !== 'huggingface')
    refuse('infer_backend', `LLaMA-Factory trains with huggingface alone; leave it out`);
  if (Array.isArray(train.adapter_name_or_path))
    refuse('adapter_name_or_path', 'LLaMA-Factory takes no list here; write one text with commas');
  const checkpoint = checkpointFault(train, workingFolder);
  if (checkpoint !== undefined) refuse('resume_from_checkpoint', checkpoint);
  return found;
}

/** Why training can't go on from `resume_from_checkpoint`, which LLaMA-Factory finds out with the base in memory. */
function checkpointFault(train: Train, workingFolder: string): string | undefined {
  const { resume_from_checkpoint: given, output_dir } = train as Record<string, unknown>;
  if (given === true) {
    const folder = resolve(workingFolder, typeof output_dir === 'string' ? output_dir : 'trainer_output');
    const found = existsSync(folder) && readdirSync(folder).some((name) => /^checkpoint-\d+$/.test(name));
    return found ? undefined : `there is no checkpoint in ${show(folder)}; leave it out`;
  }
  if (typeof given !== 'string') return undefined;
  const folder = resolve(workingFolder, given);
  if (!existsSync(folder) || !statSync(folder).isDirectory()) return `${show(folder)} is no folder; leave it out`;
  return existsSync(join(folder, 'trainer_state.json'))
    ? undefined
    : `${show(folder)} is no checkpoint, for it has no trainer_state.json; leave it out`;
}

/** What LLaMA-Factory takes, and what a person may still want to know. */
function adviceOn(train: Train, ending: string, workingFolder: string): ConfigIssue[] {
  const notes = adviceOnOptions(train).map(({ option, message }) => ({ path: option, message: `${option}${message}` }));
  const note = (path: OptionName | '', message: string) => notes.push({ path: path as OptionName, message });
  const { model_name_or_path: base, mix_strategy, tokenized_path } = train;
  if (base !== undefined && !existsSync(resolve(workingFolder, base)) && looksLikeHubId(base))
    note(
      'model_name_or_path',
      `model_name_or_path: tokens were not counted, for ${base} is no folder here but a name on a hub`,
    );
  if (train.streaming === true) note('streaming', 'streaming: the rows are judged as they are read without it');
  if (mix_strategy !== undefined && mix_strategy !== 'concat')
    note(
      'mix_strategy',
      `mix_strategy ${mix_strategy}: every row is judged, though not each is trained on exactly once`,
    );
  if (tokenized_path != null)
    note(
      'tokenized_path',
      'tokenized_path: if rows are there already, LLaMA-Factory takes them and looks at no other option of the rows',
    );
  if (listOf(train.adapter_name_or_path).length > 1)
    note('adapter_name_or_path', 'adapter_name_or_path: all but the last adapter are merged into the base first');
  if (ending === '.json')
    note('', 'llamafactory-cli 0.9.5 cannot read a file named .json; name it .yaml, for JSON is YAML');
  return notes;
}

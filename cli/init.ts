import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { isAbsolute, join, relative, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import { loadConfigFile } from '../configs/load.ts';
import { checkout } from '../host/checkout.ts';
import { TemperError } from '../host/errors.ts';
import { loadOptions } from '../host/settings.ts';
import { readJson, writeWhole } from '../host/state-file.ts';
import { readSettings } from '../workers/settings.ts';
import { nearest } from '../configs/nearest.ts';
import { askForMissing } from './init-questions.ts';

/** What a new config is made of. */
export interface InitAnswers {
  name: string;
  /** A folder, `hf:ORG/NAME` or `modelscope:ORG/NAME`. */
  base: string;
  dataset: string;
  datasetDir: string;
  method: 'lora' | 'full';
  /** Name of the deployment, or `no`. */
  deploy: string;
}

export type InitOptions = Partial<Omit<InitAnswers, 'name'>> & { force?: boolean; json?: boolean };

const SHIPPED = ['demo', 'qwen3-vl-4b-full', 'qwen3-vl-4b-lora', 'qwen3-vl-4b-lora-v100', 'qwen3-vl-8b-lora'];

/** The shipped config that a method's is made from, with its comments. */
const MODELS = { lora: 'qwen3-vl-4b-lora.yaml', full: 'qwen3-vl-4b-full.yaml' };

/** `temper init [NAME]`: write `configs/NAME.yaml` from the shipped one, proved by loading it; asks for what is not given. */
export async function init(name: string | undefined, { force, json, ...given }: InitOptions): Promise<void> {
  const settings = readSettings();
  const answers = await askForMissing({ ...given, ...(name !== undefined && { name }) }, settings);
  requireName(answers.name);
  await requireDataset(answers);
  const file = join(settings.configsFolder, `${answers.name}.yaml`);
  if (existsSync(file) && force !== true)
    throw new TemperError('ConfigError', `${file} is there already; give another name, or --force to write over it.`);
  const before = existsSync(file) ? await readFile(file, 'utf8') : undefined;
  await writeWhole(file, await configText(answers));
  try {
    loadConfigFile(file, loadOptions(settings));
  } catch (error) {
    // What can't be used is not left behind.
    await (before === undefined ? rm(file) : writeWhole(file, before));
    throw error;
  }
  if (json === true) return console.log(JSON.stringify({ config: answers.name, file }));
  console.log(`${file} is written. Next:`);
  for (const command of ['doctor', 'validate', 'plan', 'start']) console.log(`  npx temper ${command} ${answers.name}`);
}

async function configText({ name, base, dataset, datasetDir, method, deploy }: InitAnswers): Promise<string> {
  const shipped = await readFile(join(checkout, 'configs', MODELS[method]), 'utf8');
  const document = parseDocument(shipped.replace(/^(#.*\n|\n)*/, '').replaceAll(/^# .*\n/gm, ''));
  const isHub = /^(hf|modelscope):/.test(base);
  if (isHub) document.deleteIn(['train', 'model_name_or_path']);
  else document.setIn(['train', 'model_name_or_path'], placeOf(base));
  document.setIn(['train', 'dataset'], dataset);
  document.setIn(['train', 'dataset_dir'], placeOf(datasetDir));
  document.set('deploy', deploy === 'no' ? { enabled: false } : { name: deploy });
  const head = [
    '# yaml-language-server: $schema=./schema.json',
    `# ${name}: ${method === 'lora' ? 'LoRA' : 'full fine-tuning'}, made by \`temper init\`. What is not here is planned; what you write here wins.`,
    '',
    ...(isHub ? ['model:', `  source: ${base}`, ''] : []),
  ];
  return `${head.join('\n')}${isHub ? '' : '\n'}${String(document)}`;
}

/** Paths below the checkout as the shipped configs have them, others whole. */
function placeOf(path: string): string {
  const whole = resolve(path);
  const inside = relative(checkout, whole);
  return inside.startsWith('..') || isAbsolute(inside) ? whole : inside;
}

function requireName(name: string): void {
  if (/^[a-z0-9][a-z0-9-]{0,39}$/.test(name) && !SHIPPED.includes(name)) return;
  throw new TemperError(
    'ConfigError',
    `A config can't be called ${JSON.stringify(name)}: use 1 to 40 lower-case letters, digits and -, and not the name of a shipped one.`,
  );
}

/** Where the folder is not there yet, the config's loader says so. */
async function requireDataset({ dataset, datasetDir }: InitAnswers): Promise<void> {
  const folder = resolve(datasetDir);
  if (!existsSync(folder)) return;
  const file = join(folder, 'dataset_info.json');
  const entries = await readJson<object>(file);
  if (entries === undefined)
    throw new TemperError(
      'ConfigError',
      `${folder} has no dataset_info.json; name the folder that has it, or make one with temper dataset convert.`,
    );
  const known = Object.keys(entries);
  const missing = dataset.split(',').find((name) => !known.includes(name.trim()));
  if (missing === undefined) return;
  const near = nearest(missing, known);
  throw new TemperError(
    'ConfigError',
    `${file} has no dataset ${missing}; ${near === undefined ? `it has: ${known.join(', ') || 'none'}` : `did you mean ${near}?`}`,
  );
}

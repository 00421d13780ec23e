import type * as prompts from '@inquirer/prompts';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { TemperError } from '../host/errors.ts';
import type { HostSettings } from '../host/settings.ts';
import type { InitAnswers } from './init.ts';

/** How deep below the allowed folders datasets and bases are looked for. */
const DEPTH = 3;
const NOT_LOOKED_INTO = new Set(['node_modules', 'runs', 'cache', 'deployments', 'dist', 'test']);
const OTHER = '';

/** The answers, asked for on a terminal where they are not given; elsewhere a ConfigError names what is missing. */
export async function askForMissing(given: Partial<InitAnswers>, settings: HostSettings): Promise<InitAnswers> {
  const { name, base, dataset, datasetDir, method = 'lora', deploy = name ?? 'no' } = given;
  if (name !== undefined && base !== undefined && dataset !== undefined && datasetDir !== undefined)
    return { name, base, dataset, datasetDir, method, deploy };
  const missing = (['name', 'base', 'dataset', 'datasetDir'] as const).filter((key) => given[key] === undefined);
  if (!process.stdin.isTTY) {
    const flags = { name: 'a NAME', base: '--base', dataset: '--dataset', datasetDir: '--dataset-dir' };
    throw new TemperError(
      'ConfigError',
      `temper init needs ${missing.map((key) => flags[key]).join(', ')} where it can't ask (this is no terminal).`,
    );
  }
  return ask(given, settings, await import('@inquirer/prompts')).catch((error: unknown) => {
    if (!(error instanceof Error && error.name === 'ExitPromptError')) throw error;
    console.error('Nothing is written.');
    process.exit(130);
  });
}

async function ask(given: Partial<InitAnswers>, settings: HostSettings, prompts: Prompts): Promise<InitAnswers> {
  const { input, select } = prompts;
  const name = given.name ?? (await input({ message: "The config's name", default: 'my-model' }));
  const base =
    given.base ??
    (await choose(
      select,
      input,
      'The base',
      [...basesIn(settings), ...hubs],
      'A folder, hf:ORG/NAME or modelscope:ORG/NAME',
    ));
  const found = given.datasetDir === undefined ? datasetsIn(settings) : datasetsOf(given.datasetDir);
  const named = given.dataset === undefined ? found : found.filter(({ dataset }) => dataset === given.dataset);
  const chosen = await chooseDataset(select, input, given, named);
  const method = given.method ?? (await select({ message: 'How to fine-tune', choices: methods }));
  const deploy = given.deploy ?? (await input({ message: 'Serve it as (or no)', default: name.replaceAll('_', '-') }));
  return { name, base, method, deploy, ...chosen };
}

const hubs = ['modelscope:Qwen/Qwen3-VL-4B-Instruct', 'hf:Qwen/Qwen3-VL-4B-Instruct'];
const methods = [
  { name: 'LoRA: from 16 GB of GPU memory for 4B', value: 'lora' as const },
  { name: 'full: every weight of the language model, from 80 GB', value: 'full' as const },
];

type Prompts = typeof prompts;

async function choose(
  select: Prompts['select'],
  input: Prompts['input'],
  message: string,
  values: string[],
  otherwise: string,
): Promise<string> {
  const choices = [...values.map((value) => ({ name: value, value })), { name: 'another', value: OTHER }];
  const chosen = await select({ message, choices });
  return chosen === OTHER ? input({ message: otherwise }) : chosen;
}

async function chooseDataset(
  select: Prompts['select'],
  input: Prompts['input'],
  given: Partial<InitAnswers>,
  found: Pick<InitAnswers, 'dataset' | 'datasetDir'>[],
): Promise<Pick<InitAnswers, 'dataset' | 'datasetDir'>> {
  const { dataset, datasetDir } = given;
  if (dataset !== undefined && datasetDir !== undefined) return { dataset, datasetDir };
  const choices = [
    ...found.map((each) => ({ name: `${each.dataset} in ${each.datasetDir}`, value: each })),
    { name: 'another', value: undefined },
  ];
  const chosen = found.length === 0 ? undefined : await select({ message: 'The dataset', choices });
  if (chosen !== undefined) return chosen;
  return {
    datasetDir: datasetDir ?? (await input({ message: 'The folder with dataset_info.json' })),
    dataset: dataset ?? (await input({ message: "The dataset's name in it" })),
  };
}

/** Bases that are there, below where models are fetched to and where the docs keep them. */
function basesIn({ modelsRoot, dataRoots }: HostSettings): string[] {
  const folders = [modelsRoot, ...dataRoots].flatMap((root) => foldersBelow(root, DEPTH));
  return [...new Set(folders)].filter((folder) => {
    const file = join(folder, 'config.json');
    return existsSync(file) && /"model_type":\s*"qwen\d(_5)?_vl/.test(readFileSync(file, 'utf8'));
  });
}

function datasetsIn({ dataRoots }: HostSettings): Pick<InitAnswers, 'dataset' | 'datasetDir'>[] {
  return [...new Set(dataRoots.flatMap((root) => foldersBelow(root, DEPTH)))].flatMap(datasetsOf);
}

function datasetsOf(datasetDir: string): Pick<InitAnswers, 'dataset' | 'datasetDir'>[] {
  try {
    const entries = JSON.parse(readFileSync(join(datasetDir, 'dataset_info.json'), 'utf8')) as object;
    return Object.keys(entries).map((dataset) => ({ dataset, datasetDir }));
  } catch {
    return [];
  }
}

function foldersBelow(root: string, depth: number): string[] {
  if (!existsSync(root)) return [];
  const entries = readdirSync(root, { withFileTypes: true });
  const folders = entries.filter(
    (entry) => entry.isDirectory() && !entry.name.startsWith('.') && !NOT_LOOKED_INTO.has(entry.name),
  );
  return [root, ...(depth === 0 ? [] : folders.flatMap(({ name }) => foldersBelow(join(root, name), depth - 1)))];
}

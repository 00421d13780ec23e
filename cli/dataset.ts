import { resolve } from 'node:path';
import { runPython } from '../host/python.ts';
import { progressLine } from './progress-line.ts';

/** The formats that are read; each is described in docs/datasets.md. */
export const datasetFormats = ['coco-caption', 'llava', 'qwen-vl', 'openai-chat', 'csv'] as const;

interface ConvertOptions {
  from?: string;
  name?: string;
  pictures: string;
  picturesFrom?: string;
  prompt?: string;
  pictureColumn?: string;
  textColumn?: string;
  questionColumn?: string;
  firstCaption?: boolean;
  skipBad?: boolean;
  replace?: boolean;
  json?: boolean;
}

interface Converted {
  format: string;
  detected: boolean;
  name: string;
  datasetDir: string;
  rows: number;
  skipped: number;
  duplicates: number;
}

/** `temper dataset convert SOURCE OUT`: make a dataset of LLaMA-Factory of pictures with texts, registered with every key. */
export async function convertDataset(source: string, out: string, options: ConvertOptions): Promise<void> {
  const { json, picturesFrom, ...others } = options;
  const args = Object.entries({ ...others, ...(picturesFrom && { picturesFrom: resolve(picturesFrom) }) }).flatMap(
    ([name, value]) => (value === true ? [flag(name)] : [flag(name), String(value)]),
  );
  const made = await runPython<Converted>('trainer/convert_dataset.py', [resolve(source), resolve(out), ...args], {
    onProgress: json === true ? undefined : progressLine('converting'),
  });
  const { format, detected, name, datasetDir, rows, skipped, duplicates } = made;
  if (json === true)
    return console.log(JSON.stringify({ format, detected, name, datasetDir, rows, skipped, duplicates }, null, 2));
  console.log(`${rows} rows from ${format}${detected ? ', as the file looks' : ''}, in ${datasetDir}`);
  if (skipped > 0) console.log(`${skipped} rows are left out; ${datasetDir}/skipped.jsonl says why.`);
  if (duplicates > 0) console.log(`${duplicates} rows are there more than once.`);
  console.log(`\nFor the config, below train:\n  dataset: ${name}\n  dataset_dir: ${datasetDir}`);
  console.log(`or have one made: npx temper init my-model --dataset ${name} --dataset-dir ${datasetDir}`);
}

/** `pictureColumn` → `--picture-column`. */
function flag(name: string): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

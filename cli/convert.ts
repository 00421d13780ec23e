import { resolve } from 'node:path';
import { formatBytes } from '../host/disk.ts';
import { runPython } from '../host/python.ts';
import { progressLine } from './progress-line.ts';

interface MergeOptions {
  dtype: string;
  clamp?: boolean;
  device: string;
  json?: boolean;
}

/** `temper merge BASE ADAPTER OUT`: merge a LoRA adapter into its base in one streaming pass. */
export async function merge(
  base: string,
  adapter: string,
  out: string,
  { dtype, clamp, device, json }: MergeOptions,
): Promise<void> {
  const args = [...[base, adapter, out].map((path) => resolve(path)), '--dtype', dtype, '--device', device];
  const done = await runPython<{
    tensors: number;
    merged: number;
    overflow: number;
    bytes: number;
    seconds: number;
    peakRssBytes: number;
  }>('trainer/merge_adapter.py', clamp ? [...args, '--clamp'] : args, { onProgress: progressLine('merging') });
  if (json === true) return console.log(JSON.stringify({ ...done, modelDir: resolve(out) }, null, 2));
  console.log(
    `${done.merged} of ${done.tensors} tensors merged, ${formatBytes(done.bytes)} in ${done.seconds.toFixed(1)} s, ` +
      `${formatBytes(done.peakRssBytes)} of memory at most, ${done.overflow} values overflowed: ${resolve(out)}`,
  );
}

interface Fp16Options {
  out?: string;
  inPlace?: boolean;
  rows?: string;
  clamp?: boolean;
  json?: boolean;
}

/** `temper fp16 MODEL_DIR`: make a Qwen-VL folder fit for GPUs without bfloat16; beside it unless told otherwise. */
export async function fp16(modelDir: string, { out, inPlace, rows, clamp, json }: Fp16Options): Promise<void> {
  const args = [
    resolve(modelDir),
    ...(out === undefined ? [] : ['--out', resolve(out)]),
    ...(inPlace ? ['--in-place'] : []),
    ...(rows === undefined ? [] : ['--rows', resolve(rows)]),
    ...(clamp ? ['--clamp'] : []),
  ];
  const done = await runPython<{
    modelDir: string;
    tensors: number;
    converted: number;
    gate?: { rows: number } | null;
  }>('trainer/patch_fp16.py', args, { onProgress: progressLine('fp16') });
  if (json === true) return console.log(JSON.stringify(done, null, 2));
  const gate = done.gate ? `, ${done.gate.rows} rows answered as in fp32` : '';
  console.log(`${done.tensors} tensors in fp16, ${done.converted} converted${gate}: ${done.modelDir}`);
}

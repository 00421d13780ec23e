import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Deployment } from './deployments.ts';
import { formatBytes } from '../disk.ts';
import { listGpus } from '../gpus.ts';
import { healthFacts } from './health.ts';

/** Where a candidate runs until it is swapped in: beside the champion, or in its place, requests being held meanwhile. */
export interface Placement {
  mode: 'beside' | 'in-place';
  /** Why, with the bytes it was decided by. */
  reason: string;
}

/** Of weights alone: room for activations and a GPU's context. */
const OVERHEAD_FACTOR = 1.25;
const OVERHEAD_BYTES = 1.5 * 1024 ** 3;
/** What CUDA itself holds of a process, which PyTorch doesn't count: 0.67 GiB on an H200 (`bench/gpu/serve.py`). */
const CUDA_CONTEXT_BYTES = 0.75 * 1024 ** 3;
/** Others may take memory between the look and the start. */
const MARGIN = 1.1;

/** Decide by measured memory: what the champion takes, which is the same architecture, against what is free. */
export async function choosePlacement(
  wanted: 'auto' | 'beside' | 'in-place',
  { modelDir, cpu, champion }: { modelDir: string; cpu: boolean; champion: Deployment | undefined },
  signal: AbortSignal,
): Promise<Placement> {
  if (wanted !== 'auto') return { mode: wanted, reason: `deploy.placement: ${wanted}` };
  if (champion?.champion.server == null) return { mode: 'beside', reason: 'nothing is in service' };
  const { server, serving } = champion.champion;
  const measured = await healthFacts(server.url, serving, signal);
  const needed =
    measured === undefined
      ? (await weightBytes(modelDir)) * OVERHEAD_FACTOR + OVERHEAD_BYTES
      : measured.peakMemoryBytes + (cpu ? 0 : CUDA_CONTEXT_BYTES);
  const free = cpu ? await freeMemoryBytes() : await freeGpuBytes();
  const mode = free >= needed * MARGIN ? 'beside' : 'in-place';
  const by = measured === undefined ? 'by the size of its weights' : 'as the champion does now';
  return { mode, reason: `it takes about ${formatBytes(needed)}, ${by}; ${formatBytes(free)} are free` };
}

async function weightBytes(modelDir: string): Promise<number> {
  const files = (await readdir(modelDir)).filter((file) => file.endsWith('.safetensors'));
  const sizes = await Promise.all(files.map(async (file) => (await stat(join(modelDir, file))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function freeMemoryBytes(): Promise<number> {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'utf8'));
  return Number(line?.[1] ?? 0) * 1024;
}

async function freeGpuBytes(): Promise<number> {
  return (await listGpus()).reduce((sum, { freeMemoryBytes: free }) => sum + free, 0);
}

import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Deployment } from './deployments.ts';
import { formatBytes } from '../disk.ts';
import { listGpus } from '../gpus.ts';
import { healthFacts } from './health.ts';
import type { ServingOptions } from './serving-options.ts';

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
/** Beside weights, what vLLM can't start without: its largest picture, CUDA graphs, cache for one conversation of 8192 tokens. */
const VLLM_OVERHEAD_BYTES = 4 * 1024 ** 3;
/** Others may take memory between the look and the start. */
const MARGIN = 1.1;

/**
 * Decide by measured memory: what the champion takes, which is the same architecture, against what is free. What vLLM takes is
 * what it is told to, so there it is its share of what is free against the least that it can start with.
 */
export async function choosePlacement(
  wanted: 'auto' | 'beside' | 'in-place',
  { modelDir, serving, champion }: { modelDir: string; serving: ServingOptions; champion: Deployment | undefined },
  signal: AbortSignal,
): Promise<Placement> {
  if (wanted !== 'auto') return { mode: wanted, reason: `deploy.placement: ${wanted}` };
  if (champion?.champion.server == null) return { mode: 'beside', reason: 'nothing is in service' };
  const { cpu, backend, gpuMemoryShare = 1 } = serving;
  const measured = backend === 'vllm' ? undefined : await championTakes(champion, signal);
  const overhead = backend === 'vllm' ? VLLM_OVERHEAD_BYTES : OVERHEAD_BYTES;
  const needed =
    measured === undefined
      ? (await weightBytes(modelDir)) * OVERHEAD_FACTOR + overhead
      : measured + (cpu ? 0 : CUDA_CONTEXT_BYTES);
  const free = cpu ? await freeMemoryBytes() : await freeGpuBytes(backend);
  const mode = free * gpuMemoryShare >= needed * MARGIN ? 'beside' : 'in-place';
  const by = measured === undefined ? 'by the size of its weights' : 'as the champion does now';
  const share = backend === 'vllm' ? `, of which vLLM takes ${formatBytes(free * gpuMemoryShare)}` : '';
  return { mode, reason: `it takes about ${formatBytes(needed)}, ${by}; ${formatBytes(free)} are free${share}` };
}

/** What the champion takes at most, if that says what another model will: one under vLLM takes what it was told. */
async function championTakes({ champion }: Deployment, signal: AbortSignal): Promise<number | undefined> {
  if (champion.server === null || champion.serving.backend === 'vllm') return undefined;
  return (await healthFacts(champion.server.url, champion.serving, signal))?.peakMemoryBytes;
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

/** vLLM serves on the first GPU alone. */
async function freeGpuBytes(backend: ServingOptions['backend']): Promise<number> {
  const gpus = await listGpus();
  return gpus
    .slice(0, backend === 'vllm' ? 1 : gpus.length)
    .reduce((sum, { freeMemoryBytes }) => sum + freeMemoryBytes, 0);
}

import { runProgram } from './subprocess.ts';

export interface Gpu {
  index: number;
  name: string;
  computeCapability: number;
  totalMemoryBytes: number;
  freeMemoryBytes: number;
  driverVersion: string;
}

const MIB = 1024 * 1024;

/** The host's GPUs by nvidia-smi; an empty list where there is none, which means training on the CPU. */
export async function listGpus(): Promise<Gpu[]> {
  const query = 'index,name,compute_cap,memory.total,memory.free,driver_version';
  const result = await runProgram('nvidia-smi', [`--query-gpu=${query}`, '--format=csv,noheader,nounits'], {
    timeoutMs: 20_000,
  });
  if (result.exitCode !== 0) return [];
  return result.stdout.split('\n').flatMap((line) => {
    const [index, name, computeCapability, total, free, driverVersion] = line.split(',').map((field) => field.trim());
    if (driverVersion === undefined) return [];
    return {
      index: Number(index),
      name: name ?? '',
      computeCapability: Number(computeCapability),
      totalMemoryBytes: Number(total) * MIB,
      freeMemoryBytes: Number(free) * MIB,
      driverVersion,
    };
  });
}

/**
 * Whether a GPU computes in bfloat16: compute capability 8.0 (Ampere) and newer. PyTorch's `is_bf16_supported()` says yes
 * on a V100 too, since it counts emulation.
 */
export function hasBfloat16(gpu: Gpu): boolean {
  return gpu.computeCapability >= 8;
}

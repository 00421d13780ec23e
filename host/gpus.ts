import { runProgram } from './subprocess.ts';

export interface Gpu {
  index: number;
  name: string;
  computeCapability: number;
  totalMemoryBytes: number;
  freeMemoryBytes: number;
  driverVersion: string;
  /** The processes that hold its memory now. */
  holders: { pid: number; name: string; bytes: number }[];
}

const MIB = 1024 * 1024;

/**
 * The GPUs by nvidia-smi that `visible` (CUDA_VISIBLE_DEVICES) leaves to this host's trainings; an empty list where there is
 * none, which means training on the CPU.
 */
export async function listGpus(visible = process.env.CUDA_VISIBLE_DEVICES): Promise<Gpu[]> {
  const [rows, holders] = await Promise.all([
    queryNvidiaSmi('gpu', 'index,name,compute_cap,memory.total,memory.free,driver_version,uuid'),
    queryNvidiaSmi('compute-apps', 'gpu_uuid,pid,used_memory,process_name'),
  ]);
  const gpus = rows.flatMap(([index, name, computeCapability, total, free, driverVersion, uuid]) => {
    if (driverVersion === undefined) return [];
    const gpu: Gpu = {
      index: Number(index),
      name: name ?? '',
      computeCapability: Number(computeCapability),
      totalMemoryBytes: Number(total) * MIB,
      freeMemoryBytes: Number(free) * MIB,
      driverVersion,
      holders: holders
        .filter(([of, pid]) => of === uuid && Number(pid) > 0)
        .map(([, pid, used, ...path]) => ({ pid: Number(pid), name: path.join(','), bytes: Number(used) * MIB })),
    };
    return [{ gpu, uuid }];
  });
  if (visible === undefined) return gpus.map(({ gpu }) => gpu);
  const wanted = visible.split(',').map((each) => each.trim());
  return wanted.flatMap(
    (each) =>
      gpus.find(({ gpu, uuid }) => each === String(gpu.index) || (each !== '' && uuid?.startsWith(each)))?.gpu ?? [],
  );
}

/** The comma-separated fields of each line that nvidia-smi answers, memory in MiB; none where it fails. */
export async function queryNvidiaSmi(of: 'gpu' | 'compute-apps', fields: string): Promise<string[][]> {
  const result = await runProgram('nvidia-smi', [`--query-${of}=${fields}`, '--format=csv,noheader,nounits'], {
    timeoutMs: 20_000,
  });
  if (result.exitCode !== 0) return [];
  return result.stdout.split('\n').map((line) => line.split(',').map((field) => field.trim()));
}

/**
 * Whether a GPU computes in bfloat16: compute capability 8.0 (Ampere) and newer. PyTorch's `is_bf16_supported()` says yes
 * on a V100 too, since it counts emulation.
 */
export function hasBfloat16(gpu: Gpu): boolean {
  return gpu.computeCapability >= 8;
}

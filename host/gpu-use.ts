import { queryNvidiaSmi } from './gpus.ts';

/** What a GPU does now. */
export interface GpuUse {
  index: number;
  usedMemoryBytes: number;
  totalMemoryBytes: number;
  /** Share of the last second or so in which it computed, 0 to 1. */
  utilization: number;
}

const READ_EVERY_MS = 10_000;
const MIB = 1024 * 1024;

/** Reads what some of the host's GPUs do, by nvidia-smi, while somebody asks. */
export class GpuMeter {
  readonly #indices: readonly number[];
  #latest: GpuUse[] = [];
  #readAt = 0;

  constructor(indices: readonly number[]) {
    this.#indices = indices;
  }

  /** At most some seconds old; empty until it was first read, and where there is no GPU. */
  latest(now = Date.now()): GpuUse[] {
    if (this.#indices.length > 0 && now - this.#readAt >= READ_EVERY_MS) {
      this.#readAt = now;
      void readGpuUse().then((all) => (this.#latest = all.filter(({ index }) => this.#indices.includes(index))));
    }
    return this.#latest;
  }
}

/** What each of the host's GPUs does. */
export async function readGpuUse(): Promise<GpuUse[]> {
  const rows = await queryNvidiaSmi('gpu', 'index,memory.used,memory.total,utilization.gpu');
  return rows.flatMap(([index, used, total, utilization]) =>
    utilization === undefined
      ? []
      : {
          index: Number(index),
          usedMemoryBytes: Number(used) * MIB,
          totalMemoryBytes: Number(total) * MIB,
          utilization: Number(utilization) / 100,
        },
  );
}

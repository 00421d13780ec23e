import { TemperError } from '../errors.ts';
import type { Gpu } from '../gpus.ts';

/** What a GPU can do, by the vendors' data sheets: dense tensor-core FLOP/s (no sparsity) and memory bandwidth in bytes/s. */
export interface Card {
  /** Part of the name that nvidia-smi gives. */
  name: string;
  memoryGiB: number;
  computeCapability: number;
  fp16Flops: number;
  /** Absent where the GPU has no bfloat16. */
  bf16Flops?: number;
  bandwidth: number;
}

/** More particular names first: "A100-SXM4-80GB" is found before "A100". */
const cards: Card[] = [
  card('H200', 141, 9.0, 989, 4.8),
  card('H100 PCIe', 80, 9.0, 756, 2.0),
  card('H100', 80, 9.0, 989, 3.35),
  card('A100-SXM4-80GB', 80, 8.0, 312, 2.04),
  card('A100 80GB', 80, 8.0, 312, 1.94),
  card('A100', 40, 8.0, 312, 1.56),
  card('L40S', 48, 8.9, 362, 0.86),
  card('L40', 48, 8.9, 181, 0.86),
  card('L4', 24, 8.9, 121, 0.3),
  card('RTX 6000 Ada', 48, 8.9, 364, 0.96),
  card('RTX A6000', 48, 8.6, 154.8, 0.77),
  card('A10G', 24, 8.6, 70, 0.6),
  card('A10', 24, 8.6, 125, 0.6),
  card('RTX 5090', 32, 12.0, 209.5, 1.79),
  card('RTX 4090', 24, 8.9, 165.2, 1.01),
  card('RTX 3090', 24, 8.6, 71, 0.94),
  { ...card('V100-SXM2-32GB', 32, 7.0, 125, 0.9), bf16Flops: undefined },
  { ...card('V100', 16, 7.0, 125, 0.9), bf16Flops: undefined },
  { ...card('T4', 16, 7.5, 65, 0.32), bf16Flops: undefined },
];

/** The card of an nvidia-smi name, such as "NVIDIA GeForce RTX 4090"; undefined for one that is not listed. */
export function cardOf(gpuName: string): Card | undefined {
  const words = (text: string) => ` ${text.toLowerCase().replaceAll('-', ' ')} `;
  return cards.find(({ name }) => words(gpuName).includes(words(name)));
}

/**
 * GPUs that this host doesn't have, empty, in a machine with 8 cores and 64 GiB for each and DeepSpeed installed. Throws ConfigError for a
 * card that is not listed.
 */
export function simulatedGpus(cardName: string, count: number) {
  const card = cardOf(cardName);
  if (card === undefined) {
    const known = cards.map(({ name }) => name).join(', ');
    throw new TemperError('ConfigError', `The card ${cardName} is not known; known are ${known}.`);
  }
  const { name, computeCapability, memoryGiB } = card;
  const bytes = memoryGiB * 2 ** 30;
  const gpus = Array.from({ length: count }, (_, index): Gpu => ({
    ...{ index, name, computeCapability, driverVersion: '', holders: [] },
    ...{ totalMemoryBytes: bytes, freeMemoryBytes: bytes * 0.985 },
  }));
  const host = { cpus: 8 * count, hostMemoryBytes: 64 * count * 2 ** 30 };
  return { gpus, ...host, installed: { flashAttention: false, deepspeed: true, liger: true } };
}

function card(name: string, memoryGiB: number, computeCapability: number, teraflops: number, terabytes: number): Card {
  const flops = teraflops * 1e12;
  return { name, memoryGiB, computeCapability, fp16Flops: flops, bf16Flops: flops, bandwidth: terabytes * 1e12 };
}

import { join } from 'node:path';
import type { BatchCut } from './batch-cut.ts';
import { checkout, trainerPython } from './checkout.ts';
import type { Gpu } from './gpus.ts';
import type { RunDirectory } from './run-directory.ts';
import type { HostSettings } from './settings.ts';
import type { TrainerProcess } from './trainer-process.ts';

/** Hosts that train together. */
export interface TrainingHosts {
  /** Their names; the first has the run. */
  hosts: string[];
  /** `ADDRESS:PORT` at which the first listens for the others. */
  rendezvous: string;
}

export interface TrainerArguments {
  attempt: number;
  cut: BatchCut;
  /** GPUs of this host that train, one process each; 0 is one process on the CPU. */
  gpus: number;
  /** Rows of an optimizer step over all GPUs of all hosts. */
  globalBatch: number;
  together?: TrainingHosts | undefined;
  /** Among the hosts that train together. */
  rank?: number;
}

/** The program that trains a run, on this host's part of it; `own` is where this part's own files are. */
export function trainerCommand(settings: HostSettings, run: RunDirectory, args: TrainerArguments, own = run): string[] {
  const { attempt, cut, gpus, globalBatch, together, rank = 0 } = args;
  return [
    ...(settings.trainerCommand ?? [trainerPython, join(checkout, 'trainer/train.py')]),
    ...['--config', run.trainConfig, '--output-dir', run.trainOutput],
    ...['--events', own.events, '--stop-file', run.stopRequest],
    ...['--attempt', String(attempt), '--tokenized-cache', join(settings.home, 'cache/tokenized')],
    ...['--micro-batch', String(cut.microBatch), '--accumulation', String(cut.accumulation)],
    ...(gpus > 1 ? ['--processes', String(gpus)] : []),
    ...(gpus > 1 || together !== undefined ? ['--global-batch', String(globalBatch)] : []),
    ...(together === undefined
      ? []
      : [
          '--nnodes',
          String(together.hosts.length),
          '--node-rank',
          String(rank),
          '--rdzv-endpoint',
          together.rendezvous,
        ]),
  ];
}

/** The cut that a trainer was started with. */
export function cutIn(trainer: TrainerProcess | undefined): BatchCut | undefined {
  const argv = trainer?.argv ?? [];
  if (!argv.includes('--micro-batch') || !argv.includes('--accumulation')) return undefined;
  const valueOf = (flag: string) => Number(argv[argv.indexOf(flag) + 1]);
  return { microBatch: valueOf('--micro-batch'), accumulation: valueOf('--accumulation') };
}

/** Which GPUs a trainer sees: LLaMA-Factory takes all that it sees, and refuses several without one process each. */
export function visibleGpus(indices: number[], all: Gpu[]): Record<string, string> {
  if (indices.length === 0 || indices.length === all.length) return {};
  return { CUDA_DEVICE_ORDER: 'PCI_BUS_ID', CUDA_VISIBLE_DEVICES: indices.join(',') };
}

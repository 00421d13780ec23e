import type { BatchCut } from '../batch-cut.ts';
import type { TrainingOptions } from '../training-config.ts';

export interface Decision {
  /** LLaMA-Factory's name of the option. */
  option: string;
  value: unknown;
  by: 'config' | 'plan';
  reason: string;
}

/** Collects what is decided; where the config has the option, its value stands and nothing is added. */
export class Decisions {
  readonly #config: TrainingOptions;
  readonly #options: TrainingOptions = {};
  readonly #decisions: Decision[] = [];

  constructor(config: TrainingOptions) {
    this.#config = config;
  }

  /** Decide an option that LLaMA-Factory is to get. */
  add(option: string, value: unknown, reason: string): void {
    if (this.#config[option] === undefined) this.#options[option] = value;
    this.keep(option, value, reason);
  }

  /** Decide for what LLaMA-Factory does by itself. */
  keep(option: string, value: unknown, reason: string): void {
    const configured = this.#config[option];
    if (configured === undefined) this.#decisions.push({ option, value, by: 'plan', reason });
    else this.#decisions.push({ option, value: configured, by: 'config', reason: 'the config says so' });
  }

  /** Note those of the options that the config has. */
  given(names: string[], reason: string): void {
    for (const option of names) {
      const value = this.#config[option];
      if (value !== undefined) this.#decisions.push({ option, value, by: 'config', reason });
    }
  }

  /** Decide how the global batch is cut. */
  cut({ microBatch, accumulation }: BatchCut, globalBatch: number, gpus: number, reason: string): void {
    this.add('per_device_train_batch_size', microBatch, reason);
    const product = gpus === 1 ? '' : ` on ${gpus} GPUs`;
    this.add('gradient_accumulation_steps', accumulation, `keeps the global batch of ${globalBatch} rows${product}`);
  }

  result(): { options: TrainingOptions; decisions: Decision[] } {
    return { options: this.#options, decisions: this.#decisions };
  }
}

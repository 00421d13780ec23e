import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'yaml';
import { checkout } from '../host/checkout.ts';

/**
 * The demo's training as a config of its own: LLaMA-Factory on the cards, four to a step so that a step is quick on any
 * processor, a checkpoint every ten steps, nothing served.
 * `changes` replace options of LLaMA-Factory.
 */
export async function cardsTraining(changes: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
  const { train } = parse(await readFile(join(checkout, 'configs/demo.yaml'), 'utf8')) as {
    train: Record<string, unknown>;
  };
  return {
    train: { ...train, per_device_train_batch_size: 4, save_steps: 10, plot_loss: false, ...changes },
    precision: 'bf16',
    evaluate: { enabled: false },
    deploy: { enabled: false },
  };
}

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The checkout's folder: the nearest one above this file that holds `trainer/pyproject.toml`. */
export const checkout: string = findCheckout(dirname(fileURLToPath(import.meta.url)));

/** The Python of the trainer's environment. */
export const trainerPython: string = join(checkout, 'trainer/.venv/bin/python');

/** The Python that serves with vLLM on a GPU; there after `npm run setup:vllm`. */
export const vllmPython: string = join(checkout, 'serving/.venv-vllm/bin/python');

/** The same for the CPU, which the tests make. */
export const vllmCpuPython: string = join(checkout, 'serving/.venv-vllm-cpu/bin/python');

/** The Temporal CLI with its embedded server, installed with the trainer's environment. */
export const temporalCli: string = join(checkout, 'trainer/.venv/bin/temporal');

function findCheckout(folder: string): string {
  if (existsSync(join(folder, 'trainer/pyproject.toml'))) return folder;
  const above = dirname(folder);
  if (above === folder) throw new Error('Temper must be run from its checkout: trainer/pyproject.toml was not found.');
  return findCheckout(above);
}

import { join } from 'node:path';
import { checkout, trainerPython } from './checkout.ts';
import { errorNames, TemperError, type ErrorName } from './errors.ts';
import { runProgram } from './subprocess.ts';

export interface PythonProgress {
  done: number;
  total: number;
  unit: string;
  message?: string;
}

export interface PythonOptions {
  cancelSignal?: AbortSignal | undefined;
  onProgress?: ((progress: PythonProgress) => void) | undefined;
  env?: Record<string, string>;
  /** What the program reads from stdin. */
  input?: string;
  /** Default: the checkout. */
  cwd?: string;
}

/**
 * Run one of Temper's short-lived Python programs (`trainer/protocol.py` is the other side) and return its result line.
 * An error line becomes the TemperError it names; a program that dies without one becomes a TrainerError with its last words.
 */
export async function runPython<T>(script: string, args: string[], options: PythonOptions = {}): Promise<T> {
  let last: Record<string, unknown> = {};
  const outcome = await runProgram(trainerPython, [join(checkout, script), ...args], {
    cwd: options.cwd ?? checkout,
    cancelSignal: options.cancelSignal,
    ...(options.input === undefined ? {} : { input: options.input }),
    env: { PYTHONUNBUFFERED: '1', ...options.env },
    onLine: (line) => {
      const event = parseLine(line);
      if (event?.event === 'progress') options.onProgress?.(event as unknown as PythonProgress);
      else if (event !== undefined) last = event;
    },
  });
  if (last.event === 'result' && outcome.exitCode === 0) return last as T;
  if (last.event === 'error') throw toError(last);
  const end = outcome.startError ?? `it ended with ${outcome.signal ?? `exit code ${outcome.exitCode}`} and no result`;
  throw new TemperError('TrainerError', `${script} failed: ${end}.\n${outcome.stderr}`);
}

function parseLine(line: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function toError(line: Record<string, unknown>): TemperError {
  const name: ErrorName = errorNames.find((known) => known === line.type) ?? 'TrainerError';
  const details = line.details as Record<string, unknown> | undefined;
  return new TemperError(name, String(line.message), details === undefined ? {} : { details });
}

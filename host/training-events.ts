import { open } from 'node:fs/promises';
import type { ErrorName } from './errors.ts';
import { parseLine } from './json-lines.ts';
import { median } from './median.ts';
import type { Setup, StepWork } from './planning/mfu.ts';

/** A line of `train/events.jsonl`, as `trainer/events.py` writes it; `time` is in seconds since the epoch. */
export type TrainingEvent =
  | { type: 'started'; attempt: number; pid: number; resumedFrom: string | null; resumedAtStep: number; time: number }
  | { type: 'phase'; phase: TrainingPhase; time: number }
  | ({ type: 'setup'; time: number } & Setup)
  | {
      type: 'step';
      step: number;
      loss: number | null;
      learningRate?: number;
      gradNorm?: number | null;
      epoch?: number;
      maxSteps: number;
      tokens?: number;
      memoryReservedBytes?: number;
      secondsPerStep?: number;
      work?: StepWork;
      time: number;
    }
  | { type: 'checkpoint'; checkpoint: string; atStep: number; sizeBytes: number; time: number }
  | { type: 'damagedCheckpoint'; checkpoint: string; reason: string; movedTo: string; time: number }
  | { type: 'trackerFailed'; tracker: string; message: string; atStep: number; time: number }
  | { type: 'evaluation'; atStep: number; evalLoss: number | null; time: number }
  | {
      type: 'finished';
      atStep: number;
      maxSteps: number;
      stopped: boolean;
      adapter: string;
      trainableParameters?: number;
      time: number;
    }
  | { type: 'interrupted'; atStep: number; signal: string; time: number }
  | { type: 'failed'; error: ErrorName; exception: string; message: string; traceback: string[]; time: number };

export type TrainingPhase =
  'importing' | 'parsing' | 'preprocessing' | 'loading' | 'training' | 'evaluating' | 'saving' | 'finishing';

/** The time of a step in seconds: the median of what the trainers told; undefined before there was any. */
export function usualStepSeconds(events: TrainingEvent[]): number | undefined {
  return median(events.flatMap((event) => (event.type === 'step' ? (event.secondsPerStep ?? []) : [])));
}

/** Reads a growing file of JSON lines from where it last stopped; a half-written last line waits for its rest. */
export class EventReader {
  readonly #path: string;
  #offset = 0;
  #rest: Buffer = Buffer.alloc(0);

  constructor(path: string) {
    this.#path = path;
  }

  /** The events written since the last call; none when there is no file yet. Lines that are no JSON are passed over. */
  async read(): Promise<TrainingEvent[]> {
    const fresh = await readFrom(this.#path, this.#offset);
    this.#offset += fresh.length;
    const bytes = Buffer.concat([this.#rest, fresh]);
    const end = bytes.lastIndexOf(10) + 1;
    this.#rest = bytes.subarray(end);
    return bytes
      .subarray(0, end)
      .toString('utf8')
      .split('\n')
      .flatMap((line) => parseLine<TrainingEvent>(line));
  }
}

/** All events of a file so far. */
export async function readEvents(path: string): Promise<TrainingEvent[]> {
  return new EventReader(path).read();
}

/** One point a step of the training that counts: a resume drops what was trained past its checkpoint; ordered by step. */
export function lossCurve(events: TrainingEvent[]): { step: number; loss: number | null }[] {
  const curve = new Map<number, number | null>();
  for (const event of events) {
    if (event.type === 'started') for (const step of curve.keys()) if (step > event.resumedAtStep) curve.delete(step);
    if (event.type === 'step') curve.set(event.step, event.loss);
  }
  return [...curve].map(([step, loss]) => ({ step, loss })).sort((a, b) => a.step - b.step);
}

async function readFrom(path: string, offset: number): Promise<Buffer> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (file === undefined) return Buffer.alloc(0);
  try {
    const { size } = await file.stat();
    const buffer = Buffer.alloc(Math.max(0, size - offset));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, offset);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

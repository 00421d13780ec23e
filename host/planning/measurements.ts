import { join } from 'node:path';
import { digestOfValue } from '../digest.ts';
import { median } from '../median.ts';
import { usualStepSeconds, type TrainingEvent } from '../training-events.ts';
import { readJson, writeJson } from '../state-file.ts';
import type { Way } from './candidates.ts';
import { cardOf } from './cards.ts';
import { predictMemory } from './memory.ts';
import type { ModelShape } from './model-shape.ts';
import { predictStepSeconds } from './pace.ts';

/** What a training on this host took, beside all that its prediction was made from. */
export interface Measurement {
  gpu: string;
  shape: ModelShape;
  way: Way;
  /** Tokens of the longest row, those of its pictures, and positions whose logits were computed. */
  tokens: number;
  mostPictureTokens: number;
  answerSpan: number;
  /** Means of a row: padded tokens, picture tokens, answer tokens. */
  paddedTokens: number;
  pictureTokens: number;
  answerTokens: number;
  /** Peak that PyTorch reserved on a GPU. */
  reservedBytes: number;
  /** Median over the steps. */
  secondsPerStep: number;
  measuredAt: string;
}

/** By how much a prediction has to be multiplied: memory beyond weights and optimizer state, and seconds. */
export interface Correction {
  memory: number;
  pace: number;
  isMeasured: boolean;
}

const KEPT = 200;
const NONE: Correction = { memory: 1, pace: 1, isMeasured: false };

/** The peak of memory, the median pace and the number of steps in a training's events; undefined without a GPU's figures. */
export function whatItTook(
  events: TrainingEvent[],
): (Pick<Measurement, 'reservedBytes' | 'secondsPerStep'> & { steps: number }) | undefined {
  const steps = events.flatMap((event) => (event.type === 'step' ? [event] : []));
  const reserved = steps.flatMap(({ memoryReservedBytes }) => memoryReservedBytes ?? []);
  const secondsPerStep = usualStepSeconds(events);
  if (reserved.length === 0 || secondsPerStep === undefined) return undefined;
  const largest = (values: number[]) => values.reduce((most, value) => Math.max(most, value)); // too many for arguments
  const last = largest(steps.map(({ step }) => step));
  return { reservedBytes: largest(reserved), secondsPerStep, steps: last };
}

/** What earlier trainings took on this host; none when the file is missing. */
export async function readMeasurements(home: string): Promise<Measurement[]> {
  return (await readJson<Measurement[]>(fileIn(home))) ?? [];
}

/** Keep what a training took; the oldest go. */
export async function rememberMeasurement(home: string, measurement: Measurement): Promise<void> {
  const all = [...(await readMeasurements(home)), measurement];
  await writeJson(fileIn(home), all.slice(-KEPT));
}

/**
 * How the formula was off on earlier trainings of the same kind (GPU, model shape, method, precision, checkpointing,
 * compilation, sharding): the median of the last five. The formula is taken anew, so that a better one needs no new runs.
 */
export function correctionOf(measurements: Measurement[], gpu: string, shape: ModelShape, way: Way): Correction {
  const kind = kindOf(gpu, shape, way);
  const alike = measurements.filter((each) => kindOf(each.gpu, each.shape, each.way) === kind).slice(-5);
  const [memory, pace] = [median(alike.map(memoryRatio)), median(alike.map(paceRatio))];
  return memory === undefined || pace === undefined ? NONE : { memory, pace, isMeasured: true };
}

function kindOf(gpu: string, shape: ModelShape, { cut: _cut, globalBatch: _global, ...kind }: Way): string {
  return digestOfValue({ gpu, shape, kind: Object.entries(kind).filter(([, value]) => value !== undefined) });
}

function memoryRatio({ shape, way, tokens, mostPictureTokens, answerSpan, reservedBytes }: Measurement): number {
  const { weights, optimizer, total } = predictMemory({
    ...way,
    shape,
    tokens,
    pictureTokens: mostPictureTokens,
    answerSpan,
    microBatch: way.cut.microBatch,
  });
  const states = weights + optimizer;
  return Math.max(0.2, (reservedBytes - states) / (total - states));
}

function paceRatio({
  gpu,
  shape,
  way,
  paddedTokens,
  pictureTokens,
  answerTokens,
  secondsPerStep,
}: Measurement): number {
  const predicted = predictStepSeconds({
    ...way,
    ...way.cut,
    shape,
    card: cardOf(gpu),
    tokens: paddedTokens,
    pictureTokens,
    answerTokens,
  });
  return secondsPerStep / predicted;
}

function fileIn(home: string): string {
  return join(home, 'cache/plan-measurements.json');
}

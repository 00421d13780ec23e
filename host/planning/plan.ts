import type { BatchCut } from '../batch-cut.ts';
import { hasBfloat16, type Gpu } from '../gpus.ts';
import type { TrainingOptions } from '../training-config.ts';
import { cutsOf, globalBatchOf, waysToTrain, type Way } from './candidates.ts';
import { cardOf } from './cards.ts';
import { Decisions, type Decision } from './decisions.ts';
import { correctionOf, type Measurement } from './measurements.ts';
import { contextBytes, predictMemory, type MemoryPrediction, type TrainingPrecision } from './memory.ts';
import type { ModelShape } from './model-shape.ts';
import { COMPILE_SECONDS, predictStepSeconds } from './pace.ts';
import { refusal } from './refusal.ts';
import { paddedLength, type RowLengths } from './row-lengths.ts';

/** All that a plan is made from. */
export interface PlanFacts {
  /** The GPUs that may be used; none is the CPU. */
  gpus: Gpu[];
  cpus: number;
  /** Memory of the host, of which ZeRO's offloading takes much. */
  hostMemoryBytes: number;
  shape: ModelShape;
  /** LLaMA-Factory's options as the config has them: what is there wins. */
  options: TrainingOptions;
  /** `plan:` of the config. */
  wishes: { globalBatchSize?: number | undefined; gpus?: number | undefined; gpuHourPrice?: number | undefined };
  rows: RowLengths;
  /** Packages that a plan may make use of. */
  installed: { flashAttention: boolean; deepspeed: boolean; liger: boolean };
  /** What earlier trainings took on this host. */
  measurements: Measurement[];
  /** Folder of DeepSpeed's configs. */
  deepspeedConfigs: string;
}

export interface TrainingPlan {
  /** GPUs that train, one process each; 0 is one process on the CPU. */
  gpus: number;
  /** Their numbers as nvidia-smi has them. */
  gpuIndices: number[];
  /** Rows of an optimizer step over all GPUs. */
  globalBatch: number;
  cut: BatchCut;
  /** What LLaMA-Factory gets beside the config's options. */
  options: TrainingOptions;
  decisions: Decision[];
  prediction: Prediction;
  /** What somebody who wants more may do, one sentence each. */
  advice: string[];
  /** The way it was chosen as; null where the config brings its own sharding, and on the CPU. */
  way: Way | null;
}

export interface Prediction {
  /** Peak on a GPU, of what PyTorch reserves; null on the CPU and where the config brings its own sharding. */
  memory: (MemoryPrediction & { availableBytes: number; errorShare: number }) | null;
  secondsPerStep: number | null;
  steps: number;
  hours: number | null;
  /** GPU hours times `plan.gpuHourPrice`. */
  cost: number | null;
  /** Whether earlier trainings on this host have corrected the formula. */
  isCalibrated: boolean;
}

/** A way to train with what it is predicted to take. */
export interface Weighed extends Way {
  memory: MemoryPrediction;
  isCalibrated: boolean;
  fits: boolean;
  secondsPerStep: number;
  totalSeconds: number;
}

/** How far off predictions of memory may be: measured points lie within it (test/host/planning/memory.test.ts). */
const ERROR = { formula: 0.15, calibrated: 0.07 };
/** Another GPU has to save so much of the time. */
const WORTH_A_GPU = 0.1;
/** Of two ways so close, the one that takes less memory. */
const SAME_TIME = 0.02;

/**
 * How to cut the config's optimization so that it is fastest on these GPUs: micro-batch and accumulation, precision, gradient
 * checkpointing, attention, loader workers, Liger's kernels or `torch_compile`, how many GPUs and how they share. What the config says wins.
 * Throws HostError when no way fits into memory, naming what is missing.
 */
export function makePlan(facts: PlanFacts): TrainingPlan {
  if (facts.gpus.length === 0) return planForCpu(facts);
  if (facts.options.deepspeed != null || facts.options.fsdp != null) return planForOwnSharding(facts);
  const best = bestWay(facts);
  if (best === undefined) throw refusal(facts, weighAll(facts), availableBytes(facts));
  return planOf(best, facts);
}

/** Rows of a micro-batch that a CPU reads at once: more of them is no faster, and takes its memory. */
const CPU_ROWS = 16;

function planForCpu(facts: PlanFacts): TrainingPlan {
  const { options, wishes, cpus } = facts;
  const globalBatch = globalBatchOf(options, wishes, 1);
  const cuts = cutsOf(globalBatch, options);
  const cut = cuts.filter(({ microBatch }) => microBatch <= CPU_ROWS).at(-1) ?? cuts[0];
  if (cut === undefined) throw refusal(facts, [], 0);
  const decisions = new Decisions(options);
  decisions.cut(cut, globalBatch, 1, `trains on the CPU: ${CPU_ROWS} rows at once keep its cores busy`);
  decisions.add('dataloader_num_workers', cpus > 4 ? 2 : 0, 'a loader process takes a core from the training');
  return {
    ...{ gpus: 0, gpuIndices: [], globalBatch, cut, way: null, advice: [] },
    ...decisions.result(),
    prediction: { ...withoutFigures, steps: stepsOf(facts, globalBatch) },
  };
}

const withoutFigures = { memory: null, secondsPerStep: null, hours: null, cost: null, isCalibrated: false };

/** The config shares the model among GPUs in its own way: all of them train, and what they take is not known beforehand. */
function planForOwnSharding(facts: PlanFacts): TrainingPlan {
  const { options, wishes } = facts;
  const gpus = Math.min(facts.gpus.length, wishes.gpus ?? facts.gpus.length);
  const globalBatch = globalBatchOf(options, wishes, gpus);
  const cut = cutsOf(globalBatch / gpus, options)[0];
  if (cut === undefined) throw refusal(facts, [], 0);
  const decisions = new Decisions(options);
  const sharing = options.deepspeed == null ? 'train.fsdp' : 'train.deepspeed';
  decisions.cut(cut, globalBatch, gpus, `${sharing} shares the model: what fits is not known, so a row at once`);
  decidePrecision(facts, decisions);
  decideLoading(facts, decisions, gpus, undefined);
  return {
    ...{ gpus, gpuIndices: indicesOf(facts, gpus), globalBatch, cut, way: null, advice: [] },
    ...decisions.result(),
    prediction: { ...withoutFigures, steps: stepsOf(facts, globalBatch) },
  };
}

/** The fewest GPUs that are nearly as fast as the best; among ways of nearly one speed the one that takes least memory. */
function bestWay(facts: PlanFacts): Weighed | undefined {
  const fitting = weighAll(facts).filter(({ fits }) => fits);
  const best = Math.min(...fitting.map(({ totalSeconds }) => totalSeconds));
  const good = fitting.filter(({ totalSeconds }) => totalSeconds * (1 - WORTH_A_GPU) <= best);
  const fewest = Math.min(...good.map(({ gpus }) => gpus));
  const chosen = good.filter(({ gpus }) => gpus === fewest);
  const quickest = Math.min(...chosen.map(({ totalSeconds }) => totalSeconds));
  return chosen
    .filter(({ totalSeconds }) => totalSeconds <= quickest * (1 + SAME_TIME))
    .sort((a, b) => a.memory.total - b.memory.total)[0];
}

function weighAll(facts: PlanFacts): Weighed[] {
  const available = availableBytes(facts);
  return waysToTrain(facts, precisionOf(facts).precision).map((way) => weigh(way, facts, available));
}

function weigh(way: Way, facts: PlanFacts, available: number): Weighed {
  const { rows, shape } = facts;
  const gpu = facts.gpus[0]?.name ?? '';
  const correction = correctionOf(facts.measurements, gpu, shape, way);
  const predicted = predictMemory({
    ...way,
    shape,
    microBatch: way.cut.microBatch,
    tokens: rows.longest,
    pictureTokens: rows.mostPictureTokens,
    answerSpan: rows.answerSpan,
  });
  const states = predicted.weights + predicted.optimizer;
  const total = states + (predicted.total - states) * correction.memory;
  const uncorrected = predictStepSeconds({
    ...way,
    ...way.cut,
    shape,
    card: cardOf(gpu),
    tokens: paddedLength(rows, way.cut.microBatch),
    pictureTokens: rows.meanPictureTokens,
    answerTokens: rows.meanAnswer,
  });
  const secondsPerStep = uncorrected * correction.pace;
  return {
    ...way,
    memory: { ...predicted, total },
    isCalibrated: correction.isMeasured,
    fits: states + (total - states) * (1 + errorShare(correction.isMeasured)) <= available,
    secondsPerStep,
    totalSeconds: secondsPerStep * stepsOf(facts, way.globalBatch) + (way.compiled ? COMPILE_SECONDS : 0),
  };
}

function planOf(best: Weighed, facts: PlanFacts): TrainingPlan {
  const { gpus, globalBatch, cut } = best;
  const decisions = new Decisions(facts.options);
  decisions.cut(cut, globalBatch, gpus, whyCut(best, facts));
  decidePrecision(facts, decisions);
  decideSwitches(best, facts, decisions);
  decideLoading(facts, decisions, gpus, best);
  const steps = stepsOf(facts, globalBatch);
  const hours = best.totalSeconds / 3600;
  const { gpuHourPrice } = facts.wishes;
  const { memory, isCalibrated, secondsPerStep, fits: _fits, totalSeconds: _total, ...way } = best;
  return {
    ...{ gpus, gpuIndices: indicesOf(facts, gpus), globalBatch, cut, way, advice: adviceFor(best, facts) },
    ...decisions.result(),
    prediction: {
      memory: { ...memory, availableBytes: availableBytes(facts), errorShare: errorShare(isCalibrated) },
      secondsPerStep,
      steps,
      hours,
      cost: gpuHourPrice === undefined ? null : hours * gpus * gpuHourPrice,
      isCalibrated,
    },
  };
}

function whyCut({ cut, globalBatch, gpus, memory }: Weighed, facts: PlanFacts): string {
  const each = gpus === 1 ? '' : ` on each of ${gpus} GPUs`;
  const rows = `${cut.microBatch} row${cut.microBatch === 1 ? '' : 's'} at once${each}`;
  if (cut.accumulation === 1) return `${rows} fit, the whole global batch of ${globalBatch}`;
  const room = `${gib(memory.total)} of ${gib(availableBytes(facts))} GiB`;
  return `${rows} take ${room} where one has ${facts.rows.longest} tokens; more win no time or don't fit`;
}

function decidePrecision(facts: PlanFacts, decisions: Decisions): void {
  const { precision, reason } = precisionOf(facts);
  if (facts.options.bf16 !== undefined || facts.options.fp16 !== undefined || facts.options.pure_bf16 === true) {
    decisions.given(['bf16', 'fp16', 'pure_bf16'], reason);
    return;
  }
  decisions.add(precision === 'bf16' ? 'bf16' : 'fp16', true, reason);
}

/** bf16 from compute capability 8.0 on; never by PyTorch's is_bf16_supported(), which says yes on a V100. */
function precisionOf(facts: PlanFacts): { precision: TrainingPrecision; reason: string } {
  const { precision, reason } = wantedPrecision(facts);
  // A GPU without bfloat16 gets the base through a folder that says float16 (host/base-overlay.ts).
  const isCast = precision === 'fp16' && facts.shape.dtype === 'bfloat16' && facts.gpus.every(hasBfloat16);
  return { precision: isCast ? 'fp16-from-bf16' : precision, reason };
}

function wantedPrecision({ gpus, options }: PlanFacts): { precision: TrainingPrecision; reason: string } {
  if (options.bf16 === true || options.pure_bf16 === true) return { precision: 'bf16', reason: 'the config says so' };
  if (options.fp16 === true) return { precision: 'fp16', reason: 'the config says so' };
  if (options.bf16 === false || options.fp16 === false)
    return { precision: 'none', reason: 'the config wants no autocast' };
  const lowest = Math.min(...gpus.map(({ computeCapability }) => computeCapability));
  return lowest >= 8
    ? { precision: 'bf16', reason: `compute capability ${lowest} computes in bf16` }
    : { precision: 'fp16', reason: `compute capability ${lowest} has no bf16; fp16 with a scaled loss` };
}

function decideSwitches(best: Weighed, facts: PlanFacts, decisions: Decisions): void {
  const { installed, gpus, deepspeedConfigs } = facts;
  if (best.gradientCheckpointing)
    decisions.keep('disable_gradient_checkpointing', false, 'activations of every layer would not fit, or win no time');
  else
    decisions.add('disable_gradient_checkpointing', true, 'activations of all layers fit, so none is computed twice');
  const ampere = gpus.every(hasBfloat16);
  if (installed.flashAttention && ampere) decisions.add('flash_attn', 'fa2', 'FlashAttention-2 is installed');
  else
    decisions.add(
      'flash_attn',
      'sdpa',
      ampere ? 'FlashAttention-2 is not installed' : 'the GPU is too old for FlashAttention-2',
    );
  if (best.liger) decisions.add('enable_liger_kernel', true, 'norms, SwiGLU and rotary embedding in one kernel each');
  if (best.compiled) decisions.add('torch_compile', true, `${COMPILE_SECONDS} s of compiling are earned back`);
  else
    decisions.keep(
      'torch_compile',
      false,
      best.liger
        ? "Liger's kernels are as fast without compiling"
        : `${COMPILE_SECONDS} s of compiling would not be earned back, or it is not known to work here`,
    );
  decisions.keep('packing', false, "LLaMA-Factory's packing mixes Qwen3-VL's positions of different rows up");
  if (best.sharding !== 'none') {
    const file = `${deepspeedConfigs}/${best.sharding}.json`;
    const proof = best.sharding === 'zero3-offload' ? '; offloading was not run yet: watch its first losses' : '';
    decisions.add('deepspeed', file, `the training fits only when the GPUs share it${proof}`);
  }
  if (best.gpus > 1) decisions.add('ddp_timeout', 180_000_000, 'the others wait while the first one tokenizes');
}

/** Seconds of one core for a picture token: decoding, resizing and normalizing a 512 × 512 picture takes 25 ms. */
const SECONDS_PER_PICTURE_TOKEN = 0.0001;

/** As many loader processes as bring the rows twice as fast as they are trained on. */
function decideLoading({ rows, cpus }: PlanFacts, decisions: Decisions, gpus: number, best: Weighed | undefined): void {
  const most = Math.max(0, Math.min(8, Math.floor(cpus / gpus) - 1));
  const perGpu = best === undefined ? 8 : best.globalBatch / gpus;
  const work = perGpu * rows.meanPictureTokens * SECONDS_PER_PICTURE_TOKEN;
  const wanted = Math.max(2, Math.ceil((2 * work) / (best?.secondsPerStep ?? 1)));
  const workers = Math.min(most, wanted);
  decisions.add('dataloader_num_workers', workers, 'pictures are decoded while the GPU computes');
  decisions.add('preprocessing_num_workers', Math.max(1, Math.min(16, cpus)), 'rows are tokenized on all cores');
  if (best !== undefined)
    decisions.add('per_device_eval_batch_size', best.cut.microBatch, 'what fits training fits evaluation');
}

/** Where the config itself stands in the way of a much faster plan. */
function adviceFor(best: Weighed, facts: PlanFacts): string[] {
  const inTheWay = [
    ...['per_device_train_batch_size', 'gradient_accumulation_steps', 'disable_gradient_checkpointing'],
    ...['bf16', 'fp16', 'torch_compile', 'enable_liger_kernel'],
  ].filter((name) => facts.options[name] !== undefined);
  if (inTheWay.length === 0) return [];
  const options = Object.fromEntries(Object.entries(facts.options).filter(([name]) => !inTheWay.includes(name)));
  const free = bestWay({ ...facts, options, wishes: { ...facts.wishes, globalBatchSize: best.globalBatch } });
  if (free === undefined || free.totalSeconds * 1.25 > best.totalSeconds) return [];
  const times = (best.totalSeconds / free.totalSeconds).toPrecision(2);
  return [
    `without ${inTheWay.map((name) => `train.${name}`).join(', ')} and with plan.globalBatchSize: ${best.globalBatch} ` +
      `the same optimization is planned as ${free.cut.microBatch} × ${free.cut.accumulation} and takes ` +
      `${free.secondsPerStep.toPrecision(2)} s a step instead of ${best.secondsPerStep.toPrecision(2)} (${times} ×)`,
  ];
}

/** Optimizer steps of the whole training, as transformers' Trainer counts them. */
function stepsOf({ options, rows }: PlanFacts, globalBatch: number): number {
  const most = Number(options.max_steps ?? -1);
  if (most > 0) return most;
  const perEpoch = Math.max(1, Math.ceil(withoutValidation(rows.rows, options) / globalBatch));
  return Math.ceil(perEpoch * Number(options.num_train_epochs ?? 3));
}

/** `val_size` below 1 is a share of the rows, from 1 on their number. */
function withoutValidation(rows: number, options: TrainingOptions): number {
  const size = Number(options.val_size ?? 0);
  return rows - (size >= 1 ? size : Math.ceil(rows * size));
}

/** What a training may take of the fullest GPU. */
function availableBytes({ gpus }: PlanFacts): number {
  return Math.min(...gpus.map(({ freeMemoryBytes }) => freeMemoryBytes)) - contextBytes;
}

function indicesOf({ gpus }: PlanFacts, count: number): number[] {
  const freest = [...gpus].sort((a, b) => b.freeMemoryBytes - a.freeMemoryBytes).slice(0, count);
  return freest.map(({ index }) => index).sort((a, b) => a - b);
}

function errorShare(isCalibrated: boolean): number {
  return isCalibrated ? ERROR.calibrated : ERROR.formula;
}

function gib(bytes: number): string {
  return (bytes / 2 ** 30).toFixed(1);
}

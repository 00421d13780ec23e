import { ApplicationFailure, Context } from '@temporalio/activity';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ResolvedConfig } from '../configs/schema.ts';
import { digestOfBase } from '../host/base-digest.ts';
import { rememberCut, rememberedCut, type BatchCut } from '../host/batch-cut.ts';
import { digestOfFile, digestOfValue } from '../host/digest.ts';
import { TemperError } from '../host/errors.ts';
import { followTraining, type HangLimits, type TrainingEnd, type TrainingProgress } from '../host/follow-training.ts';
import { GpuMeter } from '../host/gpu-use.ts';
import { signal as sendSignal, isAlive } from '../host/process-table.ts';
import type { Gpu } from '../host/gpus.ts';
import { untilOtherHostIsSilent } from '../host/moved-training.ts';
import { isCheckpointing, nextRung } from '../host/out-of-memory.ts';
import { rememberMeasurement, whatItTook, type Measurement } from '../host/planning/measurements.ts';
import { paddedLength } from '../host/planning/row-lengths.ts';
import type { RunDirectory } from '../host/run-directory.ts';
import { oncePerInput } from '../host/stage-record.ts';
import { readJson } from '../host/state-file.ts';
import { decisiveInputs } from '../host/training-config.ts';
import { lossCurve, readEvents } from '../host/training-events.ts';
import { CRASH_LIMIT, TrainingOwnership } from '../host/training-ownership.ts';
import { cutIn, trainerCommand, visibleGpus } from '../host/trainer-command.ts';
import { findTrainer, lastTrainer, startTrainer, stopTrainer, type TrainerProcess } from '../host/trainer-process.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { RunRecord } from './load-config.ts';
import type { PlannedTraining, PlanRecord } from './plan-training.ts';
import type { StageContext, StageResult } from './stage.ts';
import type { ValidateDatasetResult } from './validate-dataset.ts';

export interface TrainModelInput {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  dataset: ValidateDatasetResult;
  plan: PlannedTraining;
}

export interface TrainModelResult extends StageResult {
  /** Folder of the trained adapter, or of the whole model after full fine-tuning. */
  adapter: string;
  /** Whether `adapter` holds a whole model (`finetuning_type: full` or `freeze`). */
  isWholeModel: boolean;
  /** Stands for its weights. */
  adapterDigest: string;
  /** Stands for the base's weights and config; the merge wants the same base. */
  baseDigest: string;
  steps: number;
  maxSteps: number;
  /** True when a stop was asked for before the last step. */
  stopped: boolean;
  /** Mean loss over the last ten steps. */
  finalLoss: number | null;
  /** How often a trainer took the training up again from a checkpoint. */
  resumes: number;
  /** The cut of the global batch that fitted. */
  cut: BatchCut;
}

const STOP_GRACE_MS = 10_000;
const PAUSE_GRACE_MS = 120_000;
const POLL_MS = 100;

/** Train with LLaMA-Factory in a process that outlives this worker, taking up whatever an earlier attempt began. */
export async function trainModel(input: TrainModelInput, context: StageContext): Promise<TrainModelResult> {
  const { environment, dataset, plan } = input;
  const { run, signal } = context;
  const base = String(plan.training.model_name_or_path);
  const baseDigest = await digestOfBase(base, signal);
  const inputs = decisiveInputs({
    options: plan.training,
    globalBatch: plan.globalBatch,
    dataset: dataset.digest,
    base: baseDigest,
    continuedFrom: plan.continuedFrom?.adapterDigest ?? null,
    versions: environment.versions,
  });
  return oncePerInput(
    {
      folder: run.stages,
      stage: 'trainModel',
      inputs,
      outputs: ({ adapter, isWholeModel }) => trainedFiles(isWholeModel).map((name) => join(adapter, name)),
    },
    () => trainToTheEnd(input, digestOfValue(inputs), baseDigest, context),
  );
}

async function trainToTheEnd(
  { config, environment, plan }: TrainModelInput,
  trainingDigest: string,
  baseDigest: string,
  context: StageContext,
): Promise<TrainModelResult> {
  const { run, settings, owner } = context;
  if ((await findTrainer(run)) === undefined) await untilOtherHostIsSilent(run, context);
  const ownership = await TrainingOwnership.open(run, trainingDigest, owner, () => stopRunningTrainer(run));
  let cut =
    cutStartedWith(await lastTrainer(run), plan) ??
    (await rememberedCut(settings.home, environment.gpus, plan.training));
  const gpuMeter = new GpuMeter(
    plan.gpuIndices.length > 0 ? plan.gpuIndices : environment.gpus.map(({ index }) => index),
  );
  for (;;) {
    const trainer =
      (await findTrainer(run)) ??
      (await startTrainer(run, {
        argv: trainerCommand(settings, run, { ...plan, attempt: context.attempt, cut }),
        env: visibleGpus(plan.gpuIndices, environment.gpus),
        attempt: context.attempt,
        owner,
      }));
    cut = cutIn(trainer) ?? cut;
    let progress: TrainingProgress | undefined;
    const onProgress = (now: TrainingProgress) => context.report({ ...(progress = now), gpus: gpuMeter.latest() });
    const end = await followTraining(run, trainer, {
      signal: context.signal,
      onProgress,
      hang: hangLimits(config),
    }).catch(async (error: unknown) => {
      await obeyCancellation(run, owner);
      throw error;
    });
    if (end.kind === 'finished') {
      await rm(run.stopRequest, { force: true });
      await rememberCut(settings.home, environment.gpus, plan.training, cut);
      await rememberWhatItTook(settings.home, run, cut, environment.gpus);
      return summarize(run, end.event, {
        baseDigest,
        cut,
        isWholeModel: (plan.training.finetuning_type ?? 'lora') !== 'lora',
      });
    }
    if (!(await TrainingOwnership.isOwner(run, owner)))
      throw new TemperError('TrainerError', 'Another attempt has taken this training over.');
    const isOutOfMemory = end.kind === 'failed' && end.event.error === 'OutOfMemoryError';
    if (isOutOfMemory) await rememberTooMuch(settings.home, run, cut, environment.gpus);
    const next = isOutOfMemory ? await nextRung(run, cut, environment.training, plan.training) : undefined;
    if (next === undefined) throw await failureOf(end, run, ownership, progress?.checkpointStep ?? 0);
    context.report({ outOfMemory: next.how });
    cut = next.cut;
  }
}

/** The files without which what was trained is not there. */
function trainedFiles(isWholeModel: boolean): string[] {
  return isWholeModel ? ['config.json'] : ['adapter_config.json', 'adapter_model.safetensors'];
}

/** A step is overdue after 20 times the trainer's own pace, but not before two minutes; loading and saving have half an hour. */
export function hangLimits({ limits }: ResolvedConfig): HangLimits {
  if (limits.hangMinutes === undefined) return { factor: 20, minSeconds: 120, quietSeconds: 1800 };
  const seconds = limits.hangMinutes * 60;
  return { factor: 0, minSeconds: seconds, quietSeconds: Math.max(seconds, 1800) };
}

/** The cut of an earlier attempt that had come down the ladder, while it is one of the plan's global batch still. */
function cutStartedWith(
  last: TrainerProcess | undefined,
  { gpus, globalBatch, together }: PlannedTraining,
): BatchCut | undefined {
  const cut = cutIn(last);
  const processes = Math.max(1, gpus) * (together?.hosts.length ?? 1);
  if (cut === undefined || cut.microBatch * cut.accumulation * processes !== globalBatch) return undefined;
  return cut;
}

/** Let later plans on this host go by what this training took, if it has seen every row. */
async function rememberWhatItTook(home: string, run: RunDirectory, cut: BatchCut, gpus: Gpu[]): Promise<void> {
  const plan = (await readJson<RunRecord>(run.run))?.plan;
  const took = whatItTook(await readEvents(run.events));
  if (plan === undefined || took === undefined || took.steps * plan.globalBatch < plan.rows.rows) return;
  await rememberFor(home, run, plan, cut, gpus, took);
}

/** Let later plans know that this much did not fit. */
async function rememberTooMuch(home: string, run: RunDirectory, cut: BatchCut, gpus: Gpu[]): Promise<void> {
  const plan = (await readJson<RunRecord>(run.run))?.plan;
  const { memory, secondsPerStep } = plan?.prediction ?? {};
  if (plan === undefined || memory == null || secondsPerStep == null) return;
  await rememberFor(home, run, plan, cut, gpus, { reservedBytes: memory.availableBytes, secondsPerStep });
}

async function rememberFor(
  home: string,
  run: RunDirectory,
  { way, shape, rows }: PlanRecord,
  cut: BatchCut,
  gpus: Gpu[],
  { reservedBytes, secondsPerStep }: Pick<Measurement, 'reservedBytes' | 'secondsPerStep'>,
): Promise<void> {
  if (way === null) return;
  const gradientCheckpointing = await isCheckpointing(run);
  await rememberMeasurement(home, {
    ...{ gpu: gpus[0]?.name ?? '', shape, way: { ...way, cut, gradientCheckpointing }, reservedBytes, secondsPerStep },
    ...{ tokens: rows.longest, mostPictureTokens: rows.mostPictureTokens, answerSpan: rows.answerSpan },
    ...{ paddedTokens: paddedLength(rows, cut.microBatch), pictureTokens: rows.meanPictureTokens },
    answerTokens: rows.meanAnswer,
    measuredAt: new Date().toISOString(),
  });
}

/**
 * What the end of an attempt means for the trainer. A cancel stops it and a pause frees the GPU; a worker's shutdown, an
 * outage, a timeout or a reset leave it running for the next attempt, and an attempt that was superseded touches nothing.
 */
async function obeyCancellation(run: RunDirectory, owner: string): Promise<void> {
  const why = Context.current().cancellationDetails;
  if (why === undefined || !(why.cancelRequested || why.paused)) return;
  if (!(await TrainingOwnership.isOwner(run, owner))) return;
  const trainer = await findTrainer(run);
  if (trainer === undefined) return;
  if (why.paused) {
    sendSignal(trainer, 'SIGTERM');
    const deadline = Date.now() + PAUSE_GRACE_MS;
    while (isAlive(trainer) && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  await stopTrainer(trainer, STOP_GRACE_MS);
}

async function stopRunningTrainer(run: RunDirectory): Promise<void> {
  const trainer = await findTrainer(run);
  if (trainer !== undefined) await stopTrainer(trainer, STOP_GRACE_MS);
}

/** The error for a trainer's end; another attempt resumes from its last checkpoint, unless it crashes again and again in one place. */
async function failureOf(
  end: Exclude<TrainingEnd, { kind: 'finished' }>,
  run: RunDirectory,
  ownership: TrainingOwnership,
  checkpointStep: number,
): Promise<Error> {
  const { name, how } = describeEnd(end);
  const message = `${how}\nIts log: ${run.trainerLog}`;
  if (end.kind === 'interrupted' || (name !== 'TrainerError' && name !== 'DiskFullError'))
    return new TemperError(name, message);
  const crashes = await ownership.noteCrash(how, checkpointStep);
  if (crashes >= CRASH_LIMIT) {
    return ApplicationFailure.nonRetryable(
      `The trainer ended three times in a row without getting past checkpoint ${checkpointStep}. The last time: ${message}`,
      name,
    );
  }
  if (name === 'DiskFullError') return new TemperError(name, message);
  // Backing off longer with every crash of a month is for servers; a GPU that waits is lost.
  return ApplicationFailure.create({ type: name, message, nextRetryDelay: crashes === 1 ? '1s' : '15s' });
}

function describeEnd(end: Exclude<TrainingEnd, { kind: 'finished' }>): { name: TemperError['name']; how: string } {
  switch (end.kind) {
    case 'failed': {
      const { error, exception, message, traceback } = end.event;
      return { name: error, how: `The trainer failed: ${exception}: ${message}\n${traceback.slice(-6).join('\n')}` };
    }
    case 'interrupted':
      return {
        name: 'TrainerError',
        how: `The trainer was stopped by ${end.event.signal} after step ${end.event.atStep}; its checkpoint is kept.`,
      };
    case 'hung':
      return {
        name: 'TrainerError',
        how: `The trainer made no step for ${end.silentSeconds} s and was stopped; what it was doing: ${end.stackDump}`,
      };
    case 'died':
      return { name: 'TrainerError', how: `The trainer died: ${end.how}.` };
  }
}

async function summarize(
  run: RunDirectory,
  event: Extract<TrainingEnd, { kind: 'finished' }>['event'],
  { baseDigest, cut, isWholeModel }: Pick<TrainModelResult, 'baseDigest' | 'cut' | 'isWholeModel'>,
): Promise<TrainModelResult> {
  const events = await readEvents(run.events);
  const losses = lossCurve(events).flatMap(({ loss }) => (loss === null ? [] : [loss]));
  const last = losses.slice(-10);
  const finalLoss = last.length === 0 ? null : last.reduce((sum, loss) => sum + loss, 0) / last.length;
  const resumes = events.filter((each) => each.type === 'started' && each.resumedFrom !== null).length;
  const adapterDigest = isWholeModel
    ? await digestOfBase(event.adapter)
    : await digestOfFile(join(event.adapter, 'adapter_model.safetensors'));
  const loss = finalLoss === null ? '' : `, loss ${finalLoss.toPrecision(3)}`;
  const failed = events.flatMap((each) => (each.type === 'trackerFailed' ? [each.tracker] : []));
  const untracked = failed.length === 0 ? '' : `, ${[...new Set(failed)].join(' and ')} failed: see trainer.log`;
  const resumed = resumes === 0 ? '' : `, resumed ${resumes} ×`;
  return {
    adapter: event.adapter,
    isWholeModel,
    adapterDigest,
    baseDigest,
    steps: event.atStep,
    maxSteps: event.maxSteps,
    stopped: event.stopped,
    finalLoss,
    resumes,
    cut,
    headline: `${event.atStep} of ${event.maxSteps} steps${loss}${resumed}${event.stopped ? ', stopped on request' : ''}${untracked}`,
  };
}

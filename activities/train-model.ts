import { ApplicationFailure, Context } from '@temporalio/activity';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ResolvedConfig } from '../configs/schema.ts';
import { rememberCut, rememberedCut, smallerCut, type BatchCut } from '../host/batch-cut.ts';
import { checkout, trainerPython } from '../host/checkout.ts';
import { digestOfFile, digestOfValue } from '../host/digest.ts';
import { TemperError } from '../host/errors.ts';
import { followTraining, type HangLimits, type TrainingEnd, type TrainingProgress } from '../host/follow-training.ts';
import { signal as sendSignal, isAlive } from '../host/process-table.ts';
import { runPython } from '../host/python.ts';
import type { RunDirectory } from '../host/run-directory.ts';
import type { HostSettings } from '../host/settings.ts';
import { oncePerInput } from '../host/stage-record.ts';
import { decisiveOptions } from '../host/training-config.ts';
import { lossCurve, readEvents } from '../host/training-events.ts';
import { CRASH_LIMIT, TrainingLedger } from '../host/training-ledger.ts';
import { findTrainer, lastTrainer, startTrainer, stopTrainer, type TrainerProcess } from '../host/trainer-process.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { StageContext, StageResult } from './stage.ts';
import type { ValidateDatasetResult } from './validate-dataset.ts';

export interface TrainModelInput {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  dataset: ValidateDatasetResult;
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
  const { environment, dataset } = input;
  const { run, signal } = context;
  const base = String(environment.training.model_name_or_path);
  const { baseDigest } = await digestOfBase(base, signal);
  const inputs = {
    options: decisiveOptions(environment.training),
    dataset: dataset.digest,
    base: baseDigest,
    versions: environment.versions,
  };
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
  { config, environment }: TrainModelInput,
  trainingDigest: string,
  baseDigest: string,
  context: StageContext,
): Promise<TrainModelResult> {
  const { run, settings, owner } = context;
  const ledger = await TrainingLedger.open(run, trainingDigest, owner, () => stopRunningTrainer(run));
  let cut =
    cutIn(await lastTrainer(run)) ?? (await rememberedCut(settings.home, environment.gpus, environment.training));
  for (;;) {
    const trainer =
      (await findTrainer(run)) ??
      (await startTrainer(run, {
        argv: trainerCommand(settings, run, context.attempt, cut),
        attempt: context.attempt,
        owner,
      }));
    cut = cutIn(trainer) ?? cut;
    let progress: TrainingProgress | undefined;
    const onProgress = (now: TrainingProgress) => context.report({ ...(progress = now) });
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
      await rememberCut(settings.home, environment.gpus, environment.training, cut);
      return summarize(run, end.event, {
        baseDigest,
        cut,
        isWholeModel: (environment.training.finetuning_type ?? 'lora') !== 'lora',
      });
    }
    if (!(await TrainingLedger.isOwner(run, owner)))
      throw new TemperError('TrainerError', 'Another attempt has taken this training over.');
    const next = end.kind === 'failed' && end.event.error === 'OutOfMemoryError' ? smallerCut(cut) : undefined;
    if (next === undefined) throw await failureOf(end, run, ledger, progress?.checkpointStep ?? 0);
    context.report({
      outOfMemory: `${cut.microBatch} rows at once don't fit; going on with ${next.microBatch} × ${next.accumulation}`,
    });
    cut = next;
  }
}

/** The files without which what was trained is not there. */
function trainedFiles(isWholeModel: boolean): string[] {
  return isWholeModel ? ['config.json'] : ['adapter_config.json', 'adapter_model.safetensors'];
}

/** What stands for a model folder's weights. */
async function digestOfBase(folder: string, cancelSignal?: AbortSignal): Promise<{ baseDigest: string }> {
  return runPython('trainer/base_digest.py', [folder], { cancelSignal });
}

/** A step is overdue after 20 times the trainer's own pace, but not before two minutes; loading and saving have half an hour. */
function hangLimits({ limits }: ResolvedConfig): HangLimits {
  if (limits.hangMinutes === undefined) return { factor: 20, minSeconds: 120, quietSeconds: 1800 };
  const seconds = limits.hangMinutes * 60;
  return { factor: 0, minSeconds: seconds, quietSeconds: Math.max(seconds, 1800) };
}

function trainerCommand(settings: HostSettings, run: RunDirectory, attempt: number, cut: BatchCut): string[] {
  return [
    ...(settings.trainerCommand ?? [trainerPython, join(checkout, 'trainer/train.py')]),
    ...['--config', run.trainConfig, '--output-dir', run.trainOutput],
    ...['--events', run.events, '--stop-file', run.stopRequest],
    ...['--attempt', String(attempt), '--tokenized-cache', join(settings.home, 'cache/tokenized')],
    ...['--micro-batch', String(cut.microBatch), '--accumulation', String(cut.accumulation)],
  ];
}

/** The cut that a trainer was started with, maybe by an earlier attempt that had come down the ladder. */
function cutIn(trainer: TrainerProcess | undefined): BatchCut | undefined {
  const argv = trainer?.argv ?? [];
  if (!argv.includes('--micro-batch') || !argv.includes('--accumulation')) return undefined;
  const valueOf = (flag: string) => Number(argv[argv.indexOf(flag) + 1]);
  return { microBatch: valueOf('--micro-batch'), accumulation: valueOf('--accumulation') };
}

/**
 * What the end of an attempt means for the trainer. A cancel stops it and a pause frees the GPU; a worker's shutdown, an
 * outage, a timeout or a reset leave it running for the next attempt, and an attempt that was superseded touches nothing.
 */
async function obeyCancellation(run: RunDirectory, owner: string): Promise<void> {
  const why = Context.current().cancellationDetails;
  if (why === undefined || !(why.cancelRequested || why.paused)) return;
  if (!(await TrainingLedger.isOwner(run, owner))) return;
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
  ledger: TrainingLedger,
  checkpointStep: number,
): Promise<Error> {
  const { name, how } = describeEnd(end);
  const message = `${how}\nIts log: ${run.trainerLog}`;
  if (end.kind === 'interrupted' || (name !== 'TrainerError' && name !== 'DiskFullError'))
    return new TemperError(name, message);
  const crashes = await ledger.noteCrash(how, checkpointStep);
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
    ? (await digestOfBase(event.adapter)).baseDigest
    : await digestOfFile(join(event.adapter, 'adapter_model.safetensors'));
  const loss = finalLoss === null ? '' : `, loss ${finalLoss.toPrecision(3)}`;
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
    headline: `${event.atStep} of ${event.maxSteps} steps${loss}${resumed}${event.stopped ? ', stopped on request' : ''}`,
  };
}

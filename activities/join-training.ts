import { Context } from '@temporalio/activity';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { ResolvedConfig } from '../configs/schema.ts';
import { TemperError } from '../host/errors.ts';
import { followTraining, type TrainingEnd } from '../host/follow-training.ts';
import { GpuMeter } from '../host/gpu-use.ts';
import { listGpus } from '../host/gpus.ts';
import { nodeDirectory, type RunDirectory } from '../host/run-directory.ts';
import type { HostSettings } from '../host/settings.ts';
import { trainerCommand, visibleGpus } from '../host/trainer-command.ts';
import { exitOf, findTrainer, startTrainer, stopTrainer } from '../host/trainer-process.ts';
import type { PlannedTraining } from './plan-training.ts';
import type { StageContext, StageResult } from './stage.ts';
import { hangLimits } from './train-model.ts';

export interface JoinTrainingInput {
  config: ResolvedConfig;
  plan: PlannedTraining;
  /** Among the hosts that train together, from 1 on: 0 is the run's own. */
  rank: number;
}

const STOP_GRACE_MS = 10_000;

/**
 * Do this host's part of a training that another host leads, until that has ended. Its trainer takes cut, rows and checkpoint from
 * the leading one, and ends when that does; the next attempt meets the leader's next one.
 */
export async function joinTraining(
  { config, plan, rank }: JoinTrainingInput,
  { run, settings, signal, attempt, owner, report }: StageContext,
): Promise<StageResult> {
  const own = nodeDirectory(run, rank);
  const indices = await gpusToJoinWith(plan, run, settings);
  const trainer =
    (await findTrainer(own)) ??
    (await startTrainer(own, {
      argv: trainerCommand(settings, run, { ...plan, attempt, rank }, own),
      env: visibleGpus(indices, await listGpus()),
      ...{ attempt, owner },
    }));
  const gpus = new GpuMeter(indices);
  const end = await followTraining(own, trainer, {
    signal,
    onProgress: ({ pid }) => report({ message: `trains as host ${rank} of the training`, pid, gpus: gpus.latest() }),
    // The leader tells its steps, and hangs where this one does: here only the processes are watched.
    hang: hangLimits(config),
  }).catch(async (error: unknown) => {
    const why = Context.current().cancellationDetails;
    if (why?.cancelRequested || why?.paused) await stopTrainer(trainer, STOP_GRACE_MS);
    throw error;
  });
  if ((await exitOf(own, trainer))?.exitCode === 0)
    return { headline: `host ${rank} of the training has done its part` };
  throw new TemperError(...nameAndMessage(end, own));
}

/** The GPUs that train here; HostError where the run's files, the base or enough GPUs are not there. */
async function gpusToJoinWith(
  { gpus, training }: PlannedTraining,
  run: RunDirectory,
  { hostName }: HostSettings,
): Promise<number[]> {
  const lack = (what: string, fix: string) =>
    new TemperError('HostError', `Host ${hostName} can't train together with the others: ${what}. ${fix}`);
  if (!existsSync(run.trainConfig))
    throw lack(`${run.trainConfig} is not there`, 'Put the folder of runs on storage that all of plan.hosts share.');
  const base = String(training.model_name_or_path);
  if (!existsSync(join(base, 'config.json')))
    throw lack(`the base ${base} is not there`, 'Copy it there, under the same path.');
  const all = await listGpus();
  if (all.length < gpus) throw lack(`it has ${all.length} GPUs and each host trains on ${gpus}`, 'Lower plan.gpus.');
  return all.slice(0, gpus).map(({ index }) => index);
}

function nameAndMessage(end: TrainingEnd, { trainerLog }: RunDirectory): [TemperError['name'], string] {
  const log = `Its log: ${trainerLog}`;
  if (end.kind === 'failed')
    return [end.event.error, `This host's part of the training failed: ${end.event.message}\n${log}`];
  const how =
    end.kind === 'died' ? end.how : end.kind === 'hung' ? `it hung; its stack: ${end.stackDump}` : 'it was stopped';
  return ['TrainerError', `This host's part of the training ended: ${how}.\n${log}`];
}

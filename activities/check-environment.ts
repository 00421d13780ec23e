import { join } from 'node:path';
import type { NotifyEntry } from '../configs/notify-schema.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import { makeBaseOverlay } from '../host/base-overlay.ts';
import type { CheckItem } from '../host/check-item.ts';
import { formatBytes } from '../host/disk.ts';
import { errorNameOf, messageOf, TemperError } from '../host/errors.ts';
import { receiverItems } from '../host/notifications/receiver-items.ts';
import { fetchBase, planBase, type BasePlan, type BaseState } from '../host/fetch-base.ts';
import { hasBfloat16, listGpus, type Gpu } from '../host/gpus.ts';
import { runPython, type PythonOptions, type PythonProgress } from '../host/python.ts';
import type { RunDirectory } from '../host/run-directory.ts';
import { chooseBackend, type Backend } from '../host/deployment/backend.ts';
import { servingItems } from '../host/deployment/serving-check.ts';
import { writeJson } from '../host/state-file.ts';
import { trainingOptions, writeTrainingConfig, type TrainingOptions } from '../host/training-config.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface CheckEnvironmentInput {
  config: ResolvedConfig;
}

export type Precision = 'fp16' | 'bf16';

export interface CheckEnvironmentResult extends StageResult {
  /** The type of the merged and served weights; fp16 where a GPU has no bfloat16. */
  precision: Precision;
  /** LLaMA-Factory's options exactly as `train/config.yaml` has them; on a GPU without bfloat16 the base is an fp16 overlay. */
  training: TrainingOptions;
  gpus: Gpu[];
  /** What generates the answers of the served model; histories of before have none. */
  backend?: Backend;
  warnings: string[];
  /** Versions of the Python packages that decide what training does. */
  versions: Record<string, string>;
}

/** Fetch the base if the config names its source, and check the host; the findings are kept as `environment.json`. */
export async function checkEnvironment(
  { config }: CheckEnvironmentInput,
  context: StageContext,
): Promise<CheckEnvironmentResult> {
  const { run, settings, signal } = context;
  const onProgress = (progress: PythonProgress) => context.report({ ...progress });
  const { items, precision, training, gpus, backend, versions } = await inspectHost(config, run, settings.home, {
    cancelSignal: signal,
    onProgress,
    mayFetch: true,
    notify: settings.notify,
  });
  const errors = items.filter((item) => item.verdict === 'error');
  const warnings = items.filter((item) => item.verdict === 'warning').map(sentence);
  await writeJson(run.environment, { ok: errors.length === 0, precision, gpus, backend, items, versions });
  if (errors.length > 0)
    throw new TemperError('HostError', refusal(errors, run.environment), { details: { items: errors } });

  const hardware = gpus.length === 0 ? 'CPU' : gpus.map((gpu) => gpu.name).join(', ');
  const remarks = warnings.length === 0 ? '' : `, ${warnings.length} warning${warnings.length === 1 ? '' : 's'}`;
  const headline = `${hardware}, ${precision}, LLaMA-Factory ${versions.llamafactory ?? '?'}${remarks}`;
  return { precision, training, gpus, backend, warnings, versions, headline };
}

export interface InspectOptions {
  mayFetch: boolean;
  /** Where checkpoints and the merged model would go, if not into the run directory. */
  room?: string;
  /** Who is told of runs whose config does not say so. */
  notify?: NotifyEntry | undefined;
}

/**
 * Look at GPUs, memory, disk, ports, Python packages and base; writes the exact training YAML, since LLaMA-Factory's parser
 * reads it. A base that `model.source` names is fetched first with `mayFetch`; without it a base that isn't there is an item.
 */
export async function inspectHost(
  config: ResolvedConfig,
  run: RunDirectory,
  home: string,
  { mayFetch, room = run.path, notify, ...options }: PythonOptions & InspectOptions,
): Promise<
  Pick<CheckEnvironmentResult, 'precision' | 'training' | 'gpus' | 'backend' | 'versions'> & { items: CheckItem[] }
> {
  const gpus = config.train.use_cpu === true ? [] : await listGpus();
  const needsFp16Base = gpus.some((gpu) => !hasBfloat16(gpu));
  const base = config.train.model_name_or_path;
  const source = await sourceItem(config, mayFetch, options);
  const isThere = source === undefined || source.verdict === 'ok';
  const trainingBase = needsFp16Base && isThere ? await makeBaseOverlay(base, run.baseOverlay, 'float16') : base;
  const training = trainingOptions(run, config, trainingBase);
  await writeTrainingConfig(run, training);
  const python = await runPython<{ items: CheckItem[]; versions: Record<string, string> }>(
    'trainer/check_environment.py',
    [
      ...['--config', run.trainConfig, '--cache-dir', join(home, 'cache')],
      ...(isThere ? ['--model', base] : ['--no-model']),
      ...['--run-dir', room, '--gpus', JSON.stringify(gpus)],
    ],
    options,
  );
  const { backend, item } = await chooseBackend(config, gpus, home);
  const items = [
    gpuItem(config, gpus),
    ...(await servingItems(config, gpus.length > 0, home)),
    item,
    ...receiverItems(config.notify ?? (notify === undefined ? [] : [notify])),
    ...(source === undefined ? [] : [source]),
    ...python.items,
  ];
  const precision = config.precision === 'auto' ? (needsFp16Base ? 'fp16' : 'bf16') : config.precision;
  return { items, precision, training, gpus, backend, versions: python.versions };
}

/** What is known of the base by its source; undefined without one. */
async function sourceItem(
  { model, train }: ResolvedConfig,
  mayFetch: boolean,
  options: PythonOptions,
): Promise<CheckItem | undefined> {
  if (model === undefined) return undefined;
  const folder = train.model_name_or_path;
  if (mayFetch) return presentItem(model.source, await fetchBase(model, folder, options));
  try {
    const plan = await planBase(model, folder, options);
    return plan.state === 'absent' ? absentItem(model.source, folder, plan) : presentItem(model.source, plan);
  } catch (error) {
    if (errorNameOf(error) === undefined) throw error;
    return { name: 'base folder', found: 'not fetched yet', needed: messageOf(error), verdict: 'error' };
  }
}

function presentItem(source: string, { state, commit, files, bytes, note }: BaseState): CheckItem {
  const whole = `${formatBytes(bytes)} in ${files} files at ${commit}, ${state === 'fetched' ? 'fetched now' : 'fetched before'}`;
  const found = [commit === null ? undefined : whole, note].filter((part) => part !== undefined).join('; ');
  return { name: 'base folder', found, needed: `the whole of ${source}`, verdict: 'ok' };
}

function absentItem(
  source: string,
  folder: string,
  { bytes, missingBytes = bytes, freeBytes = 0 }: BasePlan,
): CheckItem {
  const fits = missingBytes <= freeBytes;
  return {
    name: 'base folder',
    found: `not fetched yet: ${formatBytes(missingBytes)} of ${formatBytes(bytes)} to come from ${source} into ${folder}`,
    needed: fits ? 'nothing: a run fetches it first' : `that much room there; ${formatBytes(freeBytes)} are free`,
    verdict: fits ? 'warning' : 'error',
    ...(fits ? {} : { fix: 'free some space, or point TEMPER_MODELS at a larger disk' }),
  };
}

function gpuItem(config: ResolvedConfig, gpus: Gpu[]): CheckItem {
  const name = 'GPU';
  if (config.train.use_cpu === true) return { name, found: 'CPU mode (train.use_cpu)', needed: 'none', verdict: 'ok' };
  if (gpus.length === 0) {
    return {
      name,
      found: 'none (nvidia-smi is absent or lists no GPU): training runs on the CPU',
      needed: 'an NVIDIA GPU, or train.use_cpu: true to say that the CPU is meant',
      verdict: 'warning',
      fix: 'nvidia-smi',
    };
  }
  const found = gpus
    .map(
      (gpu) =>
        `${gpu.name}, compute capability ${gpu.computeCapability}, ${formatBytes(gpu.freeMemoryBytes)} of ${formatBytes(gpu.totalMemoryBytes)} free`,
    )
    .join('; ');
  const lacksBf16 = config.train.bf16 === true && gpus.some((gpu) => !hasBfloat16(gpu));
  return {
    name,
    found,
    needed: lacksBf16 ? 'compute capability 8.0 or newer for train.bf16: true' : 'an NVIDIA GPU',
    verdict: lacksBf16 ? 'error' : 'ok',
    ...(lacksBf16 ? { fix: 'in the config: train.bf16: false, train.fp16: true' } : {}),
  };
}

function refusal(errors: CheckItem[], file: string): string {
  return `This host can't do the run:\n${errors.map((item) => `- ${sentence(item)}`).join('\n')}\nAll that was looked at is in ${file}.`;
}

function sentence({ name, found, needed, fix }: CheckItem): string {
  return `${name}: found ${found}; needed ${needed}${fix === undefined ? '' : `; fix: ${fix}`}`;
}

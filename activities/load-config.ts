import { basename } from 'node:path';
import { loadConfig as readConfig } from '../configs/load.ts';
import type { NotifyEntry } from '../configs/notify-schema.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import type { ConfigChanges } from '../configs/with-changes.ts';
import { digestOfConfig } from '../host/config-digest.ts';
import { loadOptions } from '../host/settings.ts';
import { readJson, writeJson } from '../host/state-file.ts';
import type { PlanRecord } from './plan-training.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface LoadConfigInput {
  config: string | Record<string, unknown>;
  set?: ConfigChanges;
}

export interface LoadConfigResult extends StageResult {
  config: ResolvedConfig;
  /** The base's folder name, for people. */
  modelName: string;
  configDigest: string;
  /** Whether the namespace has Temper's search attributes. */
  isIndexed?: boolean;
  /** The run's directory on its host, and its report where the worker serves reports. */
  path?: string;
  reportUrl?: string | null;
  /** Who is told of the run, by the config or else by the host's settings; histories of before have none. */
  notify?: NotifyEntry[];
}

/** `run.json`: the resolved config, when the run was first and last started, and the plan once there is one. */
export interface RunRecord {
  runName: string;
  config: ResolvedConfig;
  configDigest: string;
  createdAt: string;
  startedAt: string;
  plan?: PlanRecord;
}

/** Read the config on this host, check it strictly, resolve its defaults, and keep it as the run's `run.json`. */
export async function loadConfig(
  input: LoadConfigInput,
  { settings, run, runName }: StageContext,
): Promise<LoadConfigResult> {
  const config = readConfig(input.config, loadOptions(settings), input.set);
  const configDigest = digestOfConfig(config);
  const { notify = settings.notify === undefined ? [] : [settings.notify] } = config;
  const before = await readJson<RunRecord>(run.run);
  const startedAt = new Date().toISOString();
  const record: RunRecord = { runName, config, configDigest, createdAt: before?.createdAt ?? startedAt, startedAt };
  await writeJson(run.run, record);
  const changed = Object.entries(input.set ?? {}).map(([path, value]) => `; ${path}: ${JSON.stringify(value)}`);
  const notes = config.notes.length === 0 ? '' : `; ${config.notes.join('; ')}`;
  const modelName = basename(String(config.train.model_name_or_path));
  return {
    config,
    modelName,
    configDigest,
    isIndexed: settings.isIndexed === true,
    notify,
    path: run.path,
    reportUrl: settings.reportsUrl === undefined ? null : `${settings.reportsUrl}/runs/${encodeURIComponent(runName)}`,
    headline: `${config.name}${changed.join('')}${notes}`,
  };
}

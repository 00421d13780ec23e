import { basename } from 'node:path';
import { loadConfig as readConfig } from '../configs/load.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import { digestOfValue } from '../host/digest.ts';
import { loadOptions } from '../host/settings.ts';
import { readJson, writeJson } from '../host/state-file.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface LoadConfigInput {
  config: string | Record<string, unknown>;
}

export interface LoadConfigResult extends StageResult {
  config: ResolvedConfig;
  /** The base's folder name, for people. */
  modelName: string;
  configDigest: string;
}

/** `run.json`: the resolved config and when the run was first and last started. */
export interface RunRecord {
  runName: string;
  config: ResolvedConfig;
  configDigest: string;
  createdAt: string;
  startedAt: string;
}

/** Read the config on this host, check it strictly, resolve its defaults, and keep it as the run's `run.json`. */
export async function loadConfig(
  input: LoadConfigInput,
  { settings, run, runName }: StageContext,
): Promise<LoadConfigResult> {
  const config = readConfig(input.config, loadOptions(settings));
  const configDigest = digestOfValue(config);
  const before = await readJson<RunRecord>(run.run);
  const startedAt = new Date().toISOString();
  const record: RunRecord = { runName, config, configDigest, createdAt: before?.createdAt ?? startedAt, startedAt };
  await writeJson(run.run, record);
  const notes = config.notes.length === 0 ? '' : `; ${config.notes.join('; ')}`;
  const modelName = basename(String(config.train.model_name_or_path));
  return { config, modelName, configDigest, headline: `${config.name}${notes}` };
}

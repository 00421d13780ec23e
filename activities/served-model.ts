import type { ResolvedConfig } from '../configs/schema.ts';
import type { Model, Place } from '../host/deployment/model-server.ts';
import { servingOptions } from '../host/deployment/serving-options.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { ServableModel } from './merge-adapter.ts';
import type { StageContext } from './stage.ts';

interface Served {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  model: ServableModel;
}

/** A run's model as its config has it served; on the CPU where there is no GPU. */
export function modelOf({ config, environment, model }: Served, runName: string): Model {
  const serving = servingOptions(config, environment.backend);
  const { modelDir, modelDigest } = model;
  return { runName, modelDir, modelDigest, serving: { ...serving, cpu: serving.cpu || environment.gpus.length === 0 } };
}

/** What runs the servers of a config's deployment; of a config that deploys nothing, what serves for the judging alone. */
export function placeOf({ deploy }: ResolvedConfig, { settings, run }: StageContext): Place {
  const { enabled, name, runtime, image } = deploy;
  const commands = settings.servingCommands;
  return { home: enabled ? settings.home : run.path, name, runtime, image, ...(commands ? { commands } : {}) };
}

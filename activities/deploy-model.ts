import type { ResolvedConfig } from '../configs/schema.ts';
import {
  deploymentFolder,
  findDeployment,
  recordDeployment,
  stopDeployment,
  type Deployment,
} from '../host/deployments.ts';
import { isAlive } from '../host/process-table.ts';
import { startApi, startPage, stopServed } from '../host/served-model.ts';
import { servingOptions } from '../host/serving-options.ts';
import { writeJson } from '../host/state-file.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { ServableModel } from './merge-adapter.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface DeployModelInput {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  model: ServableModel;
}

export interface DeployModelResult extends StageResult {
  name: string;
  apiUrl: string;
  pageUrl: string;
}

/**
 * Put a model folder into service under the config's deployment name: API and chat page. What served under the name
 * before is stopped first, and started again when the new one does not get healthy.
 */
export async function deployModel(
  { config, model }: DeployModelInput,
  context: StageContext,
): Promise<DeployModelResult> {
  const { run, runName, settings } = context;
  const { name } = config.deploy;
  const current = await findDeployment(settings.home, name);
  if (current?.modelDigest === model.modelDigest && current.runName === runName && isAlive(current.page))
    return describe(run.deployment, current);

  if (current !== undefined) await stopDeployment(settings.home, current);
  const candidate = { runName, modelDir: model.modelDir, modelDigest: model.modelDigest };
  const deployment = await serve(candidate, config, context).catch(async (error: unknown) => {
    if (current !== undefined) await serve(current, config, { ...context, signal: new AbortController().signal });
    throw error;
  });
  return describe(run.deployment, deployment);
}

async function serve(
  model: { runName: string; modelDir: string; modelDigest: string },
  config: ResolvedConfig,
  { settings, signal, report }: StageContext,
): Promise<Deployment> {
  const { name, host, apiPort, pagePort, apiKeyEnv } = config.deploy;
  const folder = deploymentFolder(settings.home, name);
  report({ message: `starting the API of ${name}` });
  const api = await startApi({
    ...servingOptions(config),
    modelDir: model.modelDir,
    name,
    host,
    port: apiPort,
    folder,
    signal,
  });
  try {
    report({ message: `starting the chat page of ${name}` });
    const page = await startPage({ apiUrl: api.url, name, host, port: pagePort, apiKeyEnv, folder, signal });
    const { runName, modelDir, modelDigest } = model;
    const deployment = { name, runName, modelDir, modelDigest, api, page, deployedAt: new Date().toISOString() };
    await recordDeployment(settings.home, deployment);
    return deployment;
  } catch (error) {
    await stopServed(api);
    throw error;
  }
}

async function describe(file: string, deployment: Deployment): Promise<DeployModelResult> {
  await writeJson(file, { ...deployment, runtime: 'process' });
  const { name, api, page } = deployment;
  return { name, apiUrl: api.url, pageUrl: page.url, headline: `chat page ${page.url}, API ${api.url}` };
}

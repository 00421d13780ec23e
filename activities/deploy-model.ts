import type { ResolvedConfig } from '../configs/schema.ts';
import {
  deploymentFolder,
  findDeployment,
  recordDeployment,
  stopDeployment,
  type Deployment,
} from '../host/deployments.ts';
import { isAlive } from '../host/process-table.ts';
import { serveInContainer } from '../host/served-container.ts';
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
  { config, environment, model }: DeployModelInput,
  context: StageContext,
): Promise<DeployModelResult> {
  const { run, runName, settings } = context;
  const { name } = config.deploy;
  const hasGpu = environment.gpus.length > 0;
  const current = await findDeployment(settings.home, name);
  if (current?.modelDigest === model.modelDigest && current.runName === runName && isWhole(current))
    return describe(run.deployment, current);

  if (current !== undefined) await stopDeployment(settings.home, current);
  const candidate = { runName, modelDir: model.modelDir, modelDigest: model.modelDigest };
  const deployment = await serve(candidate, config, hasGpu, context).catch(async (error: unknown) => {
    if (current !== undefined)
      await serve(current, config, hasGpu, { ...context, signal: new AbortController().signal });
    throw error;
  });
  return describe(run.deployment, deployment);
}

function isWhole(deployment: Deployment): boolean {
  return deployment.runtime === 'docker' || isAlive(deployment.page);
}

interface Model {
  runName: string;
  modelDir: string;
  modelDigest: string;
}

async function serve(
  model: Model,
  config: ResolvedConfig,
  hasGpu: boolean,
  context: StageContext,
): Promise<Deployment> {
  const deployment =
    config.deploy.runtime === 'docker'
      ? await serveInDocker(model, config, hasGpu, context)
      : await serveAsProcesses(model, config, context);
  try {
    await recordDeployment(context.settings.home, deployment);
    return deployment;
  } catch (error) {
    await stopDeployment(context.settings.home, deployment);
    throw error;
  }
}

async function serveInDocker(
  { runName, modelDir, modelDigest }: Model,
  config: ResolvedConfig,
  hasGpu: boolean,
  { settings, signal, report }: StageContext,
): Promise<Deployment> {
  const { name, image, host, apiPort, pagePort } = config.deploy;
  report({ message: `starting a container of ${image} for ${name}` });
  const model = { name, runName, modelDir, modelDigest };
  const serving = servingOptions(config);
  const container = await serveInContainer({
    ...serving,
    ...model,
    cpu: serving.cpu || !hasGpu,
    ...{ image, host, apiPort, pagePort, home: settings.home, folder: deploymentFolder(settings.home, name), signal },
  });
  const { api, page } = container;
  return { runtime: 'docker', ...model, api, page, container, deployedAt: new Date().toISOString() };
}

async function serveAsProcesses(
  { runName, modelDir, modelDigest }: Model,
  config: ResolvedConfig,
  { settings, signal, report }: StageContext,
): Promise<Deployment> {
  const { name, host, apiPort, pagePort, apiKeyEnv } = config.deploy;
  const folder = deploymentFolder(settings.home, name);
  report({ message: `starting the API of ${name}` });
  const api = await startApi({ ...servingOptions(config), modelDir, name, host, port: apiPort, folder, signal });
  try {
    report({ message: `starting the chat page of ${name}` });
    const page = await startPage({ apiUrl: api.url, name, host, port: pagePort, apiKeyEnv, folder, signal });
    const deployedAt = new Date().toISOString();
    return { runtime: 'process', name, runName, modelDir, modelDigest, api, page, deployedAt };
  } catch (error) {
    await stopServed(api);
    throw error;
  }
}

async function describe(file: string, deployment: Deployment): Promise<DeployModelResult> {
  await writeJson(file, deployment);
  const { name, api, page } = deployment;
  return { name, apiUrl: api.url, pageUrl: page.url, headline: `chat page ${page.url}, API ${api.url}` };
}

import { TemperError } from '../host/errors.ts';
import { findDeployment, listDeployments, stopDeployment } from '../host/deployments.ts';
import { readSettings } from '../workers/settings.ts';

/** `temper deployments`: what serves now. */
export async function listDeployed({ json }: { json?: boolean }): Promise<void> {
  const deployments = await listDeployments(readSettings().home);
  if (json) return console.log(JSON.stringify(deployments, null, 2));
  if (deployments.length === 0) return console.log('No model is in service.');
  for (const { name, runName, page, api, deployedAt } of deployments) {
    console.log(`${name}  run ${runName}  page ${page.url}  API ${api.url}  since ${deployedAt}`);
  }
}

/** `temper undeploy NAME`: stop its page and API. */
export async function undeploy(name: string): Promise<void> {
  const { home } = readSettings();
  const deployment = await findDeployment(home, name);
  if (deployment === undefined)
    throw new TemperError('DeploymentError', `No deployment ${name} is in service; \`temper deployments\` lists them.`);
  await stopDeployment(home, deployment);
  console.log(`${name} is out of service.`);
}

import { addToHistory, readHistory, type DeploymentEvent } from '../host/deployment/history.ts';
import { listDeployments, readDeployment, stopDeployment, type Deployment } from '../host/deployment/deployments.ts';
import { TemperError } from '../host/errors.ts';
import { readSettings } from '../workers/settings.ts';
import { TASK_QUEUE } from '../workflows/queues.ts';
import type { rollback as rollbackWorkflow } from '../workflows/rollback.ts';
import { connectToServer } from './connect-to-server.ts';
import { rootCause } from './workflow-error.ts';

/** `temper deployments [NAME]`: what serves now, or one deployment's history. */
export async function listDeployed(name: string | undefined, { json }: { json?: boolean }): Promise<void> {
  const { home } = readSettings();
  if (name !== undefined) return printHistory(home, name, json ?? false);
  const deployments = await listDeployments(home);
  if (json) return console.log(JSON.stringify(deployments, null, 2));
  if (deployments.length === 0) return console.log('No model is in service.');
  for (const deployment of deployments) console.log(lineOf(deployment));
}

function lineOf({ name, champion, swap, page, api, deployedAt }: Deployment): string {
  const proving = swap === null ? '' : '  (has to prove itself yet)';
  const backend = champion.serving.backend === undefined ? '' : `  (${champion.serving.backend})`;
  return `${name}  run ${champion.runName}${backend}  page ${page.url}  API ${api.url}  since ${deployedAt}${proving}`;
}

async function printHistory(home: string, name: string, json: boolean): Promise<void> {
  const history = await readHistory(home, name);
  if (history.length === 0)
    throw new TemperError(
      'DeploymentError',
      `There never was a deployment ${name} here; \`temper deployments\` lists them.`,
    );
  if (json) return console.log(JSON.stringify(history, null, 2));
  for (const event of history) console.log(eventLine(event));
}

function eventLine({ time, event, model, serves, score, comparison, by, why }: DeploymentEvent): string {
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  return [
    `${time}  ${event.padEnd(10)}  run ${model.runName}`,
    score == null ? '' : `score ${percent(score)}`,
    comparison == null ? '' : `champion ${percent(comparison.low)} to ${percent(comparison.high)} away`,
    event === 'deployed' ? '' : `serves: ${serves ?? 'nothing'}`,
    by === undefined ? '' : `by ${by}`,
    why ?? '',
  ]
    .filter((part) => part !== '')
    .join('  ');
}

/** `temper rollback NAME`: run the workflow `rollback` and wait for it. */
export async function rollback(
  deployment: string,
  { to, by, why, json }: { to?: string; by?: string; why?: string; json?: boolean },
): Promise<void> {
  const client = await connectToServer();
  const workflowId = `rollback-${deployment}-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`;
  const input = {
    deployment,
    by: by ?? process.env.USER ?? 'the command line',
    ...(to === undefined ? {} : { toRun: to }),
    ...(why === undefined ? {} : { why }),
  };
  try {
    const result = await client.workflow.execute<typeof rollbackWorkflow>('rollback', {
      ...{ taskQueue: TASK_QUEUE, workflowId, args: [input], staticSummary: `Roll back ${deployment}` },
    });
    if (json === true) console.log(JSON.stringify(result, null, 2));
    else console.log(`${result.headline}: page ${result.pageUrl}, API ${result.apiUrl}`);
  } catch (error) {
    throw rootCause(error);
  }
}

/** `temper undeploy NAME`: stop its page, API and address. */
export async function undeploy(name: string, { json }: { json?: boolean } = {}): Promise<void> {
  const { home } = readSettings();
  const deployment = await readDeployment(home, name);
  if (deployment === undefined)
    throw new TemperError('DeploymentError', `No deployment ${name} is in service; \`temper deployments\` lists them.`);
  const { server: _server, ...model } = deployment.champion;
  await stopDeployment(deployment);
  const time = new Date().toISOString();
  const by = process.env.USER;
  await addToHistory(home, name, {
    ...{ id: `removed ${time}`, time, event: 'removed', model, serves: null, ...(by === undefined ? {} : { by }) },
  });
  console.log(
    json === true ? JSON.stringify({ deployment: name, event: 'removed', time }) : `${name} is out of service.`,
  );
}

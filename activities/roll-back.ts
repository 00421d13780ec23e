import { join } from 'node:path';
import { addToHistory, championBefore, readHistory } from '../host/deployment/history.ts';
import { lockDeployment, readDeployment, type Release } from '../host/deployment/deployments.ts';
import { TemperError } from '../host/errors.ts';
import { putIntoService } from '../host/deployment/put-into-service.ts';
import { readJson } from '../host/state-file.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface RollbackInput {
  /** Name of the deployment. */
  deployment: string;
  /** The run to go back to. Default: the champion before. */
  toRun?: string;
  /** The host that it serves on; found by itself when only one has such a deployment. */
  host?: string;
  by?: string;
  why?: string;
}

/** What goes out of service and what comes back. */
export interface RollbackPlan extends StageResult {
  from: Release;
  to: Release;
}

export interface RollbackResult extends StageResult {
  fromRun: string;
  toRun: string;
  apiUrl: string;
  pageUrl: string;
}

const BAKE_SECONDS = 10;

/** Find the model to go back to; its folder must still hold the weights that were served. */
export async function planRollback(
  { deployment: name, toRun }: RollbackInput,
  { settings: { home } }: StageContext,
): Promise<RollbackPlan> {
  const current = await readDeployment(home, name);
  if (current === undefined)
    throw refusal(name, 'nothing is in service under this name; `temper deployments` lists what is');
  const { server: _server, ...from } = current.champion;
  const to = championBefore(await readHistory(home, name), from, toRun)?.model;
  if (to === undefined) {
    const none =
      toRun === undefined ? 'no other model has proved itself there' : `run ${toRun} has not proved itself there`;
    throw refusal(name, `${none}; \`temper deployments ${name}\` shows its history`);
  }
  const audit = await readJson<{ mergeDigest: string }>(join(to.modelDir, 'merge.json'));
  if (audit?.mergeDigest !== to.modelDigest) {
    const found = audit === undefined ? 'is gone' : 'holds another model by now';
    throw refusal(name, `the folder of run ${to.runName}, ${to.modelDir}, ${found}`);
  }
  return { from, to, headline: `${name}: from run ${from.runName} to run ${to.runName}` };
}

/** Swap the model before in as it served then, by its own image and options; it is watched as any other. */
export async function applyRollback(
  { plan, by, why }: { plan: Pick<RollbackPlan, 'from' | 'to'>; by?: string; why?: string },
  { executionId, runName: workflowId, signal, report }: StageContext,
): Promise<RollbackResult> {
  const { from, to } = plan;
  const { home, name } = to.place;
  const record = { why: why ?? 'a person asked for it', ...(by === undefined ? {} : { by }) };
  return lockDeployment({ home, name }, { signal, report }, async () => {
    const address = (await readDeployment(home, name))?.address;
    if (address === undefined) throw refusal(name, 'it has been taken out of service');
    const result = await putIntoService(to, {
      ...{ id: executionId, workflowId, address, bakeSeconds: BAKE_SECONDS, placement: 'auto', record, signal, report },
      isUnwanted: () => false,
    });
    if (result.outcome === 'rolledBack') {
      const serves = result.deployment === null ? 'nothing serves now' : `run ${from.runName} serves on`;
      throw new TemperError(
        'DeploymentError',
        `The model of run ${to.runName} did not prove itself, ${serves}: ${result.why}`,
      );
    }
    const time = new Date().toISOString();
    await addToHistory(home, name, {
      ...{ id: `${executionId}/from`, time, event: 'rolledBack', model: from, serves: to.runName, ...record },
    });
    const { api, page } = result.deployment;
    const headline = `${name}: run ${to.runName} serves again instead of ${from.runName}`;
    return { fromRun: from.runName, toRun: to.runName, apiUrl: api.url, pageUrl: page.url, headline };
  });
}

function refusal(name: string, reason: string): TemperError {
  return new TemperError('ConfigError', `${name} can't be rolled back: ${reason}.`);
}

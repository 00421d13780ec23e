import { CancelledFailure } from '@temporalio/activity';
import type { ResolvedConfig } from '../configs/schema.ts';
import { lockDeployment, type GoldenQuestion } from '../host/deployment/deployments.ts';
import { putIntoService, type SwapResult } from '../host/deployment/put-into-service.ts';
import { readJson, writeJson } from '../host/state-file.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { EvaluateModelResult } from './evaluate-model.ts';
import type { ServableModel } from './merge-adapter.ts';
import { modelOf, placeOf } from './served-model.ts';
import type { StageContext, StageResult } from './stage.ts';

/** A person's word about a model that waited for it. */
export interface Approval {
  by: string;
  why: string;
}

export interface DeployModelInput {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  model: ServableModel;
  digests: { config: string; dataset: string; base: string; adapter: string };
  /** null when the model was not judged. */
  evaluation: EvaluateModelResult | null;
  /** null when none was asked for. */
  approval: Approval | null;
}

export interface DeployModelResult extends StageResult {
  name: string;
  /** `rolledBack`: the new model did not prove itself and what served before serves again. */
  outcome: SwapResult['outcome'];
  why: string | null;
  /** The stable addresses; null when nothing serves. */
  apiUrl: string | null;
  pageUrl: string | null;
}

/** Put the run's model into service under the config's deployment name, and watch it there; see host/deployment/put-into-service.ts. */
export async function deployModel(input: DeployModelInput, context: StageContext): Promise<DeployModelResult> {
  const { config, evaluation, approval, digests } = input;
  const { signal, report, run, runName } = context;
  const { name, host, apiPort, pagePort, bakeSeconds, placement } = config.deploy;
  const place = placeOf(config, context);
  const judged = evaluation === null ? undefined : await readJson<{ golden: GoldenQuestion | null }>(run.evaluation);
  const release = { ...modelOf(input, runName), place, golden: judged?.golden ?? null };
  const options = {
    ...{ id: context.executionId, workflowId: runName, address: { host, apiPort, pagePort } },
    ...{ bakeSeconds, placement, signal, report },
    record: {
      digests,
      score: evaluation?.scores.candidate.score ?? null,
      comparison: evaluation?.comparison ?? null,
      ...(approval ?? {}),
    },
    isUnwanted: () => isRequestedCancel(signal),
  };
  const result = await lockDeployment(place, context, () => putIntoService(release, options));
  const described = describe(name, result);
  await writeJson(run.deployment, { ...described, deployment: result.deployment });
  return described;
}

/** Only a requested cancel undoes a swap; an attempt that has to end for another reason leaves it to the next one. */
function isRequestedCancel({ reason, aborted }: AbortSignal): boolean {
  return aborted && reason instanceof CancelledFailure && reason.message === 'CANCELLED';
}

function describe(name: string, result: SwapResult): DeployModelResult {
  const { outcome, deployment } = result;
  const apiUrl = deployment?.api.url ?? null;
  const pageUrl = deployment?.page.url ?? null;
  const why = result.outcome === 'rolledBack' ? result.why : null;
  const serves = deployment === null ? 'nothing serves now' : `run ${deployment.champion.runName} serves again`;
  const headline =
    result.outcome === 'rolledBack' ? `rolled back, ${serves}: ${result.why}` : `chat page ${pageUrl}, API ${apiUrl}`;
  return { name, outcome, why, apiUrl, pageUrl, headline };
}

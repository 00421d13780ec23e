import type { ResolvedConfig } from '../configs/schema.ts';
import { discardCandidate as discard, listCandidates, restoreChampionOf } from '../host/deployment/candidates.ts';
import { addToHistory } from '../host/deployment/history.ts';
import { lockDeployment } from '../host/deployment/deployments.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { EvaluateModelResult } from './evaluate-model.ts';
import type { ServableModel } from './merge-adapter.ts';
import { modelOf, placeOf } from './served-model.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface DiscardCandidateInput {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  model: ServableModel;
  /** Set for a model that was rejected, which the deployment's history keeps; not for a run that failed or was cancelled. */
  rejected: { evaluation: EvaluateModelResult | null; why: string; by?: string } | null;
}

/** Stop the run's candidate, if it serves, and have the champion serve if it was stopped for it. The model's folder stays. */
export async function discardCandidate(input: DiscardCandidateInput, context: StageContext): Promise<StageResult> {
  const { config, rejected } = input;
  const { runName } = context;
  const place = placeOf(config, context);
  return lockDeployment(place, context, async () => {
    const candidates = await listCandidates(place.home);
    for (const candidate of candidates.filter((each) => each.runName === runName)) await discard(candidate);
    const deployment = await restoreChampionOf(place.home, place.name);
    if (rejected === null) return { headline: 'the candidate is stopped' };
    const { why, by, evaluation } = rejected;
    await addToHistory(place.home, place.name, {
      id: context.executionId,
      time: new Date().toISOString(),
      event: 'rejected',
      model: { ...modelOf(input, runName), place, golden: null },
      serves: deployment?.champion.runName ?? null,
      score: evaluation?.scores.candidate.score ?? null,
      comparison: evaluation?.comparison ?? null,
      why,
      ...(by === undefined ? {} : { by }),
    });
    return { headline: `rejected: ${why}` };
  });
}

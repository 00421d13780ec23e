import { writeJson } from '../host/state-file.ts';
import type { StageContext, StageResult } from './stage.ts';

/** Ask the running trainer to finish after its current step and keep its adapter. */
export async function requestStop({ reason }: { reason: string }, { run }: StageContext): Promise<StageResult> {
  await writeJson(run.stopRequest, { reason, requestedAt: new Date().toISOString() });
  return { headline: 'The training ends after its current step; its adapter goes on to the merge.' };
}

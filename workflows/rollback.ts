import { setCurrentDetails } from '@temporalio/workflow';
import type { RollbackInput, RollbackResult } from '../activities/roll-back.ts';
import { applyRollback, planRollback } from './stages.ts';

/** Return a deployment to the champion before, or to the model of a run: `{"deployment": "…", "toRun"?, "by"?, "why"?}`. */
export async function rollback(input: RollbackInput): Promise<RollbackResult> {
  const { by, why } = input;
  const { from, to, headline } = await planRollback(input);
  setCurrentDetails(headline);
  return applyRollback.executeWithOptions({ summary: headline }, [
    { plan: { from, to }, ...(by === undefined ? {} : { by }), ...(why === undefined ? {} : { why }) },
  ]);
}

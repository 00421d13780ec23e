import { ApplicationFailure, patched, setCurrentDetails } from '@temporalio/workflow';
import type { RollbackInput, RollbackResult } from '../activities/roll-back.ts';
import { describeHosts } from './placement.ts';
import { stagesOn, type Stages } from './stages.ts';

/** Return a deployment to the champion before, or to the model of a run: `{"deployment": "…", "toRun"?, "by"?, "why"?}`. */
export async function rollback(input: RollbackInput): Promise<RollbackResult> {
  const { by, why } = input;
  const { planRollback, applyRollback } = patched('host-queues') ? await whereItServes(input) : stagesOn(null);
  const { from, to, headline } = await planRollback(input);
  setCurrentDetails(headline);
  return applyRollback.executeWithOptions({ summary: headline }, [
    { plan: { from, to }, ...(by === undefined ? {} : { by }), ...(why === undefined ? {} : { why }) },
  ]);
}

/** The stages on the host that has the deployment; they say what is wrong when none has. */
async function whereItServes({ deployment, host }: RollbackInput): Promise<Stages> {
  const hosts = await describeHosts();
  const [found, second] = hosts.filter(
    (each) => each.deployments.includes(deployment) && (host ?? each.host) === each.host,
  );
  if (second !== undefined)
    throw ApplicationFailure.nonRetryable(
      `${deployment} serves on ${found?.host} and on ${second.host}; give "host", too.`,
      'ConfigError',
    );
  return stagesOn({ name: found?.host ?? host ?? hosts[0]?.host ?? '', awayHours: 1 });
}

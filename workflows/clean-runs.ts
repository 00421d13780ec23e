import { setCurrentDetails } from '@temporalio/workflow';
import type { CleaningResult, CleanRunsInput } from '../activities/clean-runs.ts';
import { listHosts, stagesOn } from './stages.ts';

/**
 * Free the disk of old runs' weights and checkpoints; records and rows stay, and so does all that a deployment serves or would
 * go back to: `{"keepDays"?: 30, "keepNewest"?: 3, "dryRun"?: true}`. A dry run only says what would go.
 * Every host cleans its own, or only `host`.
 */
export async function cleanRuns({ host, ...policy }: CleanRunsInput & { host?: string } = {}): Promise<CleanedHost[]> {
  const { hosts } = host === undefined ? await listHosts({}) : { hosts: [host] };
  const results = await Promise.all(hosts.map(async (name) => ({ host: name, ...(await cleanHost(name, policy)) })));
  setCurrentDetails(results.map((result) => `${result.host}: ${result.headline}`).join('\n\n'));
  return results;
}

export type CleanedHost = CleaningResult & { host: string };

async function cleanHost(name: string, policy: CleanRunsInput): Promise<CleaningResult> {
  const { planCleanRuns, applyCleanRuns } = stagesOn({ name, awayHours: 1 });
  const { clean, kept, dryRun, headline } = await planCleanRuns.executeWithOptions(
    { summary: `See what may go on ${name}` },
    [policy],
  );
  const bytes = clean.reduce((total, run) => total + run.bytes, 0);
  if (dryRun) return { dryRun, cleaned: clean, kept, bytes, headline };
  return applyCleanRuns.executeWithOptions({ summary: `${name}: ${headline}` }, [{ clean, kept }]);
}

import type { ResolvedConfig } from '../configs/schema.ts';
import { countNewRows, lastJudgedRun } from '../host/earlier-runs.ts';
import type { StageContext, StageResult } from './stage.ts';
import type { ValidateDatasetResult } from './validate-dataset.ts';

export interface DetectChangeInput {
  config: ResolvedConfig;
  configDigest: string;
  dataset: ValidateDatasetResult;
  /** So many rows must be new for unequal rows to count as changed; the config counts whatever the rows are. */
  minNewRows: number;
}

export interface DetectChangeResult extends StageResult {
  changed: boolean;
  /** The last run of this config that came to a verdict. */
  since: string | null;
}

/** Whether rows or config are others than those of the last judged run of this config; an hour's training hangs on it. */
export async function detectChange(
  { config, configDigest, dataset, minNewRows }: DetectChangeInput,
  { run, runName, settings }: StageContext,
): Promise<DetectChangeResult> {
  const last = await lastJudgedRun(settings.home, config, runName);
  if (last === undefined) return { changed: true, since: null, headline: `no earlier run of ${config.name}` };
  const { manifest } = last;
  const since = manifest.runName;
  const told = `run ${since}, which was ${manifest.outcome}`;
  if (manifest.config.digest !== configDigest)
    return { changed: true, since, headline: `the config is not that of ${told}` };
  if (manifest.dataset?.digest === dataset.digest)
    return { changed: false, since, headline: `rows and config are those of ${told}` };
  const newRows = await countNewRows(run, last.run);
  const counted = `${newRows} row${newRows === 1 ? ' is' : 's are'} new since ${told}`;
  if (newRows >= minNewRows) return { changed: true, since, headline: counted };
  return { changed: false, since, headline: `${counted}; minNewRows is ${minNewRows}` };
}

import { join } from 'node:path';
import { findDeployment } from '../host/deployment/deployments.ts';
import { messageOf } from '../host/errors.ts';
import { writeReport } from '../host/report/render-report.ts';
import type { ReportStage } from '../host/report/run-state.ts';
import type { RunDirectory } from '../host/run-directory.ts';
import type { StageRecord } from '../host/stage-record.ts';
import { readJson, writeJson } from '../host/state-file.ts';
import type { DeployModelResult } from './deploy-model.ts';
import type { RunRecord } from './load-config.ts';
import type { MergeAdapterResult } from './merge-adapter.ts';
import type { StageContext, StageResult } from './stage.ts';
import type { TrainModelResult } from './train-model.ts';

/**
 * How a run ended: in service; finished without a deployment by its config; rejected by its gates or a person; rolled back
 * after the swap; unchanged, since there was nothing new to train on; failed; or cancelled.
 */
export type RunOutcome = 'deployed' | 'finished' | 'rejected' | 'rolledBack' | 'unchanged' | 'failed' | 'cancelled';

export interface RecordRunInput {
  outcome: RunOutcome;
  progress: { runName: string; stages: ReportStage[] };
}

export interface RecordRunResult extends StageResult {
  runDirectory: string;
}

/** `manifest.json`: the chain of digests from the rows and the base to what is served. */
export interface Manifest {
  runName: string;
  outcome: RunOutcome;
  finishedAt: string;
  config: { name: string; digest: string };
  dataset: { digest: string; rows: number; trainRows: number; heldOutRows: number } | null;
  base: { path: string; digest: string } | null;
  adapter: { path: string; digest: string; steps: number } | null;
  merged: { path: string; digest: string } | null;
  deployment: { name: string; apiUrl: string; pageUrl: string; modelDigest: string } | null;
  versions: Record<string, string>;
  /** How each stage ended. */
  stages?: ReportStage[];
}

/** Write the run's manifest and report, whatever its outcome. */
export async function recordRun(
  { outcome, progress }: RecordRunInput,
  { run, runName, settings }: StageContext,
): Promise<RecordRunResult> {
  const manifest = await manifestOf(run, runName, outcome, settings.home);
  await writeJson(run.manifest, { ...manifest, stages: progress.stages });
  const problem = await writeReport(run).then(() => '', withoutReport);
  return { runDirectory: run.path, headline: `${outcome}${problem}` };
}

/** A run is not worse for a report that can't be written; `temper report` writes it later. */
function withoutReport(error: unknown): string {
  return `; without its report: ${messageOf(error)}`;
}

async function manifestOf(run: RunDirectory, runName: string, outcome: RunOutcome, home: string): Promise<Manifest> {
  const record = await readJson<RunRecord>(run.run);
  const environment = await readJson<{ versions?: Record<string, string> }>(run.environment);
  const dataset = await readJson<{ digest: string; rows: number; trainRows: number; heldOutRows: number }>(
    run.datasetReport,
  );
  const training = await stageResult<TrainModelResult>(run, 'trainModel');
  const merge = await stageResult<MergeAdapterResult>(run, 'mergeAdapter');
  const deployed = outcome === 'deployed' ? await readJson<DeployModelResult>(run.deployment) : undefined;
  const serving = deployed === undefined ? undefined : await findDeployment(home, deployed.name);
  return {
    runName,
    outcome,
    finishedAt: new Date().toISOString(),
    config: { name: record?.config.name ?? '', digest: record?.configDigest ?? '' },
    dataset: dataset === undefined ? null : pick(dataset, 'digest', 'rows', 'trainRows', 'heldOutRows'),
    base:
      training === undefined
        ? null
        : { path: String(record?.config.train.model_name_or_path), digest: training.baseDigest },
    adapter:
      training === undefined ? null : { path: training.adapter, digest: training.adapterDigest, steps: training.steps },
    merged: merge === undefined ? null : { path: merge.modelDir, digest: merge.modelDigest },
    deployment:
      serving === undefined
        ? null
        : {
            name: serving.name,
            apiUrl: serving.api.url,
            pageUrl: serving.page.url,
            modelDigest: serving.champion.modelDigest,
          },
    versions: environment?.versions ?? {},
  };
}

async function stageResult<T>(run: RunDirectory, stage: string): Promise<T | undefined> {
  return (await readJson<StageRecord<T>>(join(run.stages, `${stage}.json`)))?.result;
}

function pick<T, K extends keyof T>(value: T, ...keys: K[]): Pick<T, K> {
  return Object.fromEntries(keys.map((key) => [key, value[key]])) as Pick<T, K>;
}

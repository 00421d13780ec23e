import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Manifest } from '../../activities/record-run.ts';
import { loadConfig } from '../../configs/load.ts';
import { checkout } from '../../host/checkout.ts';
import { digestOfFile, digestOfValue } from '../../host/digest.ts';
import type { Served } from '../../host/lineage.ts';
import { openRunDirectory, type RunDirectory } from '../../host/run-directory.ts';
import { writeJson } from '../../host/state-file.ts';
import { decisiveInputs, trainingOptions, writeTrainingConfig } from '../../host/training-config.ts';

export interface FinishedRun {
  run: RunDirectory;
  adapter: string;
  manifest: Manifest;
  /** Have stages/trainModel.json say that it was these digests that were trained on. */
  recordTraining: (on: { dataset: string; base: string }) => Promise<void>;
  /** What the run's model says of itself when it is served. */
  served: Served;
}

const versions = { torch: '2.10.0' };

/** The directory of a run of the demo's config that has ended, with what the chain of digests is read from; weights are stand-ins. */
export async function makeFinishedRun(home: string): Promise<FinishedRun> {
  const run = openRunDirectory(home, 'first');
  const config = loadConfig('demo', {
    ...{ configsFolder: join(checkout, 'configs'), root: checkout, allowedRoots: [checkout], modelsRoot: home },
  });
  const adapter = join(run.trainOutput, 'adapter');
  for (const folder of [run.dataset, adapter, run.merged]) mkdirSync(folder, { recursive: true });
  writeFileSync(join(run.dataset, 'train.jsonl'), '{"messages": 1}\n{"messages": 2}\n');
  writeFileSync(run.heldOut, '{"messages": 3}\n');
  writeFileSync(join(adapter, 'adapter_config.json'), '{"r": 8}');
  writeFileSync(join(adapter, 'adapter_model.safetensors'), 'weights');

  const weightsDigest = await digestOfFile(join(adapter, 'adapter_model.safetensors'));
  const adapterDigest = createHash('sha256').update('{"r": 8}').update(Buffer.from(weightsDigest, 'hex')).digest('hex');
  const manifest: Manifest = {
    ...{ runName: 'first', outcome: 'deployed', finishedAt: '2026-01-01T00:00:00.000Z' },
    config: { name: config.name, digest: digestOfValue(config) },
    dataset: { digest: 'rows', rows: 3, trainRows: 2, heldOutRows: 1 },
    base: { path: config.train.model_name_or_path, digest: 'base' },
    adapter: { path: adapter, digest: weightsDigest, steps: 4 },
    merged: { path: run.merged, digest: 'merged' },
    ...{ deployment: null, versions },
  };
  const options = trainingOptions(run, config, config.train.model_name_or_path);
  await writeTrainingConfig(run, options);
  await writeJson(run.run, { config, configDigest: manifest.config.digest, plan: { globalBatch: 16 } });
  await writeJson(run.environment, { versions });
  await writeJson(run.datasetReport, { digest: 'rows' });
  await writeJson(run.mergeAudit, { mergeDigest: 'merged', baseDigest: 'base', adapterDigest });
  await writeJson(run.manifest, manifest);
  const recordTraining = (on: { dataset: string; base: string }) =>
    writeJson(join(run.stages, 'trainModel.json'), {
      inputDigest: digestOfValue(decisiveInputs({ options, globalBatch: 16, continuedFrom: null, ...on, versions })),
    });
  await recordTraining({ dataset: 'rows', base: 'base' });
  return {
    run,
    adapter,
    manifest,
    recordTraining,
    served: { by: 'a test', home, runName: 'first', modelDigest: 'merged' },
  };
}

import { beforeAll, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { planTraining, type PlanTrainingInput } from '../../activities/plan-training.ts';
import type { RunRecord } from '../../activities/load-config.ts';
import type { StageContext } from '../../activities/stage.ts';
import { loadConfig } from '../../configs/load.ts';
import { checkout } from '../../host/checkout.ts';
import { simulatedGpus } from '../../host/planning/cards.ts';
import { runPython } from '../../host/python.ts';
import { validationArguments } from '../../activities/validate-dataset.ts';
import { openRunDirectory, type RunDirectory } from '../../host/run-directory.ts';
import { readJson, writeJson } from '../../host/state-file.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

const home = newFolder();
const run: RunDirectory = openRunDirectory(home, 'run');
const context = { run, runName: 'run', settings: { home } } as StageContext;
const config = loadConfig('demo', {
  ...{ configsFolder: join(checkout, 'configs'), root: checkout },
  ...{ allowedRoots: [checkout], modelsRoot: join(checkout, '.temper/models') },
});

beforeAll(async () => {
  await writeJson(run.run, { runName: 'run', config, configDigest: '', createdAt: '', startedAt: '' });
  await runPython('trainer/validate_dataset.py', [...validationArguments(config), '--out', run.dataset]);
});

test("a plan is made from the rows' exact token counts, and kept in run.json and train/config.yaml", async () => {
  const { plan, headline } = await planTraining(inputFor('RTX 4090'), context);
  expect(plan).toMatchObject({ gpus: 1, gpuIndices: [0], globalBatch: 8, training: { bf16: true } });
  expect(headline).toMatch(/^\d+ × \d+ rows on 1 GPU, bf16, no gradient checkpointing, 30 steps, about 1 min/);
  const { tokens } = (await readJson<{ tokens: { max: number; lengths: [number, number][] } }>(run.datasetReport))!;
  const record = (await readJson<RunRecord>(run.run))?.plan;
  expect(record?.rows.longest).toBe(tokens.max);
  expect(tokens.lengths.reduce((sum, [, rows]) => sum + rows, 0)).toBe(560);
  expect(record?.decisions.length).toBeGreaterThan(5);
  const written = parse(readFileSync(run.trainConfig, 'utf8'), { version: '1.1' }) as Record<string, unknown>;
  expect(written).toMatchObject({ bf16: true, learning_rate: 0.003 });
  expect(Number(written.per_device_train_batch_size) * Number(written.gradient_accumulation_steps)).toBe(8);
});

test('a run keeps its plan, however much memory is free when it is started again', async () => {
  const first = await planTraining(inputFor('RTX 4090'), context);
  const later = inputFor('RTX 4090');
  for (const gpu of later.environment.gpus) gpu.freeMemoryBytes = 2 ** 30;
  expect(await planTraining(later, context)).toEqual(first);
});

test('on another GPU it is planned again', async () => {
  await planTraining(inputFor('RTX 4090'), context);
  const { plan } = await planTraining(inputFor('V100'), context);
  expect(plan.training).toMatchObject({ fp16: true });
  expect(plan.training).not.toHaveProperty('bf16');
});

function inputFor(card: string): PlanTrainingInput {
  const { per_device_train_batch_size: _rows, gradient_accumulation_steps: _times, ...train } = config.train;
  return {
    config: { ...config, plan: { globalBatchSize: 8 } },
    environment: {
      ...{ precision: 'fp16', warnings: [], headline: '', versions: { torch: '2.10.0' } },
      training: { ...train, max_steps: 30, use_cpu: false },
      gpus: simulatedGpus(card, 1).gpus,
    },
    dataset: { digest: 'rows' } as PlanTrainingInput['dataset'],
  };
}

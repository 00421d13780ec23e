import type { Activities } from '../../activities/index.ts';
import { loadConfig } from '../../configs/load.ts';
import { checkout } from '../../host/checkout.ts';
import { join } from 'node:path';

/** The names of the activities in the order they were called. */
export type Calls = string[];

/** Activities that return at once what a good run would, and write down that they were called. */
export function quickActivities(calls: Calls, changes: Partial<Activities> = {}): Activities {
  const config = loadConfig('demo', {
    configsFolder: join(checkout, 'configs'),
    root: checkout,
    allowedRoots: [checkout],
    modelsRoot: join(checkout, '.temper/models'),
  });
  const model = { modelDir: '/models/merged', modelDigest: 'merged' };
  const activities: Activities = {
    loadConfig: async () => ({ config, modelName: 'tiny', configDigest: 'config', headline: 'demo' }),
    checkEnvironment: async () => ({
      precision: 'fp16',
      training: {},
      gpus: [],
      warnings: [],
      versions: {},
      headline: 'CPU',
    }),
    validateDataset: async () => ({
      rows: 10,
      kept: 10,
      trainRows: 8,
      heldOutRows: 2,
      digest: 'rows',
      reportPath: '/report.json',
      problemCount: 0,
      headline: '8 rows to train on',
    }),
    trainModel: async () => ({
      adapter: '/adapter',
      isWholeModel: false,
      adapterDigest: 'adapter',
      baseDigest: 'base',
      steps: 5,
      maxSteps: 5,
      stopped: false,
      finalLoss: 0.1,
      resumes: 0,
      cut: { microBatch: 16, accumulation: 1 },
      headline: '5 of 5 steps',
    }),
    mergeAdapter: async () => ({
      ...model,
      tensors: 2,
      merged: 1,
      bytes: 4,
      rounding: { overflow: 0, underflow: 0, subnormal: 1, nonFinite: 0, changed: 2 },
      headline: 'merged',
    }),
    patchFp16: async () => ({ ...model, tensors: 2, converted: 0, gateRows: 2, headline: 'fp16' }),
    deployModel: async () => ({
      name: 'demo',
      apiUrl: 'http://127.0.0.1:8000',
      pageUrl: 'http://127.0.0.1:7860',
      headline: 'up',
    }),
    evaluateModel: async () => ({ scores: { base: score(0.1), candidate: score(0.9) }, headline: '10 % → 90 %' }),
    requestStop: async () => ({ headline: 'stopping' }),
    recordRun: async () => ({ runDirectory: '/runs/x', headline: 'deployed' }),
    ...changes,
  };
  for (const [name, work] of Object.entries(activities)) {
    const noted = (input: never) => {
      calls.push(name);
      return (work as (input: never) => Promise<unknown>)(input);
    };
    Object.assign(activities, { [name]: noted });
  }
  return activities;
}

function score(exactMatch: number) {
  return { rows: 2, exactMatch, similarity: exactMatch, latencyP50Ms: 10, latencyP95Ms: 20 };
}

import type { EvaluateModelResult } from '../../activities/evaluate-model.ts';
import type { Activities } from '../../activities/index.ts';
import { loadConfig } from '../../configs/load.ts';
import type { Release } from '../../host/deployment/deployments.ts';
import { checkout } from '../../host/checkout.ts';
import type { Score } from '../../host/judging/scoring.ts';
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
    listHosts: async () => ({ hosts: ['here'], headline: 'here' }),
    describeHost: async () => ({
      ...{ host: 'here', home: '/home', gpus: [], slots: 1, training: [], waiting: 0, deployments: ['demo'] },
      ...{ holdsRun: false, fit: 'yes', why: '', headline: 'here' },
    }),
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
    detectChange: async () => ({ changed: true, since: null, headline: 'no earlier run' }),
    planTraining: async () => ({
      plan: {
        gpus: 0,
        gpuIndices: [],
        globalBatch: 16,
        cut: { microBatch: 16, accumulation: 1 },
        training: {},
        continuedFrom: null,
      },
      headline: '16 × 1 rows on the CPU',
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
    joinTraining: async () => ({ headline: 'did its part' }),
    mergeAdapter: async () => ({
      ...model,
      tensors: 2,
      merged: 1,
      bytes: 4,
      rounding: { overflow: 0, underflow: 0, subnormal: 1, nonFinite: 0, changed: 2 },
      headline: 'merged',
    }),
    patchFp16: async () => ({ ...model, tensors: 2, converted: 0, gateRows: 2, headline: 'fp16' }),
    evaluateModel: async () => evaluation(),
    deployModel: async () => ({
      name: 'demo',
      outcome: 'deployed',
      why: null,
      apiUrl: 'http://127.0.0.1:8000',
      pageUrl: 'http://127.0.0.1:7860',
      headline: 'up',
    }),
    discardCandidate: async () => ({ headline: 'discarded' }),
    planRollback: async () => ({ from: {} as Release, to: {} as Release, headline: 'two → one' }),
    applyRollback: async () => ({ fromRun: 'two', toRun: 'one', apiUrl: '', pageUrl: '', headline: 'done' }),
    planCleanRuns: async () => ({ clean: [], kept: [], dryRun: true, headline: 'nothing' }),
    applyCleanRuns: async () => ({ dryRun: false, cleaned: [], kept: [], bytes: 0, headline: 'nothing' }),
    requestStop: async () => ({ headline: 'stopping' }),
    recordRun: async () => ({ runDirectory: '/runs/x', headline: 'deployed' }),
    notify: async () => ({ headline: 'told' }),
    ...changes,
  };
  // Notifications go on beside a run and after it.
  const { notify, ...called } = activities;
  for (const [name, work] of Object.entries(called)) {
    const noted = (input: never) => {
      calls.push(name);
      return (work as (input: never) => Promise<unknown>)(input);
    };
    Object.assign(activities, { [name]: noted });
  }
  return activities;
}

/** What evaluateModel returns of a candidate that passed its gates, or of one that failed one. */
export function evaluation(passed = true): EvaluateModelResult {
  return {
    scores: { base: score(0.1), candidate: score(0.9), champion: null },
    comparison: null,
    verdict: { passed, checks: [], headline: passed ? 'passed maxRegression' : 'failed maxRegression: it is worse' },
    headline: '10 % → 90 %',
  };
}

function score(exactMatch: number): Score {
  const shares = { score: exactMatch, exactMatch, anls: exactMatch };
  return { rows: 2, metric: 'exact', ...shares, fields: null, latencyP50Ms: 10, latencyP95Ms: 20 };
}

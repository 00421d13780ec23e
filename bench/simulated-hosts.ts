/**
 * A process that is several GPU hosts at once, for bench/scale.ts: real workers with real queues, leases and run directories, whose
 * stages only take time. Prints `ready` once all poll.
 *
 *   node dist/bench/simulated-hosts.js '{"address": "127.0.0.1:7233", "root": "/tmp/hosts", "hosts": ["gpu-1"], …}'
 */
import { NativeConnection } from '@temporalio/worker';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createActivities, type Activities } from '../activities/index.ts';
import { stage, type StageContext, type StageOptions } from '../activities/stage.ts';
import { checkout } from '../host/checkout.ts';
import { appendLine, readLines } from '../host/json-lines.ts';
import type { HostSettings } from '../host/settings.ts';
import { installRuntime, startGpuHost } from '../workers/gpu-host.ts';

export interface SimulatedHosts {
  address: string;
  /** Holds a home for each host. */
  root: string;
  hosts: string[];
  slots: number;
  steps: number;
  stepMs: number;
  /** How long each of the other stages takes. */
  stageMs: number;
}

/** A line of `train/simulated-steps.jsonl`, one for each step, whoever made it. */
export interface SimulatedStep {
  type: 'step';
  step: number;
  attempt: number;
}

export function stepsFile(train: string): string {
  return join(train, 'simulated-steps.jsonl');
}

/** Its own hosts' activities: placing, config and records are real, the rest takes `stageMs` and returns what comes next. */
function simulatedActivities(settings: HostSettings, { steps, stepMs, stageMs }: SimulatedHosts): Activities {
  const quick = <N extends keyof Activities>(name: N, result: object, options: StageOptions = {}) =>
    stage(
      name,
      settings,
      async (_input: never, { signal }: StageContext) => {
        await sleep(stageMs, undefined, { signal });
        return { headline: name, ...result };
      },
      options,
    ) as unknown as Activities[N];

  const train = async (_input: unknown, { run, attempt, signal }: StageContext) => {
    await mkdir(run.train, { recursive: true });
    const file = stepsFile(run.train);
    for (let step = (await readLines<SimulatedStep>(file)).length + 1; step <= steps; step++) {
      await sleep(stepMs, undefined, { signal });
      appendLine(file, { type: 'step', step, attempt } satisfies SimulatedStep);
    }
    const trained = { adapter: run.trainOutput, isWholeModel: false, adapterDigest: 'a', baseDigest: 'b', steps };
    return {
      ...trained,
      maxSteps: steps,
      stopped: false,
      finalLoss: 0,
      resumes: attempt - 1,
      headline: `${steps} steps`,
    };
  };

  const model = { modelDir: '/model', modelDigest: 'm' };
  const rounding = { overflow: 0, underflow: 0, subnormal: 0, nonFinite: 0, changed: 0 };
  const score = { rows: 1, metric: 'exact', score: 1, exactMatch: 1, anls: 1, fields: null };
  const real = createActivities(settings);
  return {
    ...real,
    checkEnvironment: quick('checkEnvironment', {
      ...{ precision: 'bf16', training: {}, gpus: [], warnings: [], versions: {} },
    }),
    validateDataset: quick('validateDataset', {
      ...{ rows: 10, kept: 10, trainRows: 9, heldOutRows: 1, digest: 'd', reportPath: '', problemCount: 0 },
    }),
    planTraining: quick('planTraining', {
      plan: {
        ...{ gpus: 0, gpuIndices: [], globalBatch: 16, cut: { microBatch: 16, accumulation: 1 }, training: {} },
        continuedFrom: null,
      },
    }),
    trainModel: stage('trainModel', settings, train, { gpu: { priority: 2 } }) as unknown as Activities['trainModel'],
    mergeAdapter: quick('mergeAdapter', { ...model, tensors: 1, merged: 1, bytes: 1, rounding }),
    evaluateModel: quick(
      'evaluateModel',
      {
        scores: { base: score, candidate: score, champion: null },
        comparison: null,
        verdict: { passed: true, checks: [] },
      },
      { gpu: { priority: 1 } },
    ),
    deployModel: quick(
      'deployModel',
      { name: 'x', outcome: 'finished', why: null, apiUrl: '', pageUrl: '' },
      { gpu: { priority: 1 } },
    ),
    discardCandidate: quick('discardCandidate', {}, { announced: false }),
    recordRun: quick('recordRun', { runDirectory: '' }, { announced: false }),
  };
}

const [given] = process.argv.slice(2);
if (given !== undefined && process.argv[1]?.endsWith('simulated-hosts.js')) {
  const options = JSON.parse(given) as SimulatedHosts;
  installRuntime();
  const running = options.hosts.map(async (hostName) => {
    const home = join(options.root, hostName);
    const settings: HostSettings = {
      ...{ home, hostName, gpuSlots: options.slots, modelsRoot: home, dataRoots: [checkout] },
      configsFolder: join(checkout, 'configs'),
    };
    const connection = await NativeConnection.connect({ address: options.address });
    return startGpuHost(settings, connection, 'default', simulatedActivities(settings, options));
  });
  const hosts = await Promise.all(running);
  console.log('ready');
  await Promise.all(hosts.map(({ stopped }) => stopped));
  process.exit(0);
}

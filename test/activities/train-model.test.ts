import { expect, jest, test } from '@jest/globals';
import { ActivityCancellationDetails, CancelledFailure, type ApplicationFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { createActivities, type Activities } from '../../activities/index.ts';
import type { TrainModelInput, TrainModelResult } from '../../activities/train-model.ts';
import type { ResolvedConfig } from '../../configs/schema.ts';
import { checkout } from '../../host/checkout.ts';
import { openRunDirectory, runDirectory, type RunDirectory } from '../../host/run-directory.ts';
import { readJson } from '../../host/state-file.ts';
import { writeTrainingConfig } from '../../host/training-config.ts';
import { readEvents } from '../../host/training-events.ts';
import { findTrainer, trainerIsAlive, type TrainerProcess } from '../../host/trainer-process.ts';
import { ENDLESS, eventually, newFolder, runs, standIn, type StandIn } from '../fixtures/trainers/stand-in.ts';
import { settingsOf } from '../support/settings.ts';

jest.setTimeout(60_000);

test.concurrent('a training ends in an adapter with its digest, its figures and its losses', async () => {
  const { run, attempt } = rehearse();
  const { result, beats } = attempt(1, ['succeeds']);
  expect(await result).toEqual({
    adapter: run.trainOutput,
    adapterDigest: expect.stringMatching(/^[0-9a-f]{64}$/),
    isWholeModel: false,
    baseDigest: expect.stringMatching(/^[0-9a-f]{64}$/),
    steps: 4,
    maxSteps: 4,
    stopped: false,
    finalLoss: (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4,
    resumes: 0,
    cut: { microBatch: 16, accumulation: 1 },
    headline: '4 of 4 steps, loss 0.521',
    attempt: 1,
  });
  expect(beats.at(-1)).toMatchObject({ stage: 'trainModel', step: 4, maxSteps: 4, loss: 0.25, checkpointStep: 4 });
});

test.concurrent('a training is done once: the same input gives its result at once', async () => {
  const { run, attempt } = rehearse();
  const { attempt: _, ...first } = await attempt(1, ['succeeds']).result;
  const { pid } = await processOf(run);
  const second = await attempt(2, ['fails']).result;
  expect(second).toEqual({ ...first, attempt: 2 });
  expect((await processOf(run)).pid).toBe(pid);
});

test.concurrent('a training is done again for other rows, and what the old rows gave is kept aside', async () => {
  const { run, attempt } = rehearse();
  await attempt(1, ['succeeds']).result;
  const second = await attempt(1, ['succeeds', '--steps', '6'], { rows: 'other rows' }).result;
  expect(second).toMatchObject({ steps: 6, resumes: 0 });
  const [aside] = readdirSync(run.train).filter((name) => name.startsWith('superseded-'));
  expect(readdirSync(join(run.train, aside ?? '', 'output'))).toContain('adapter_model.safetensors');
});

test.concurrent('no result is lost when the worker died between the last step and the record', async () => {
  const { run, attempt } = rehearse();
  const { attempt: _, ...first } = await attempt(1, ['succeeds']).result;
  rmSync(join(run.stages, 'trainModel.json'));
  expect(await attempt(2, ['succeeds']).result).toEqual({ ...first, attempt: 2 });
  expect(stepsOf(await readEvents(run.events))).toEqual([1, 2, 3, 4]);
});

test.concurrent('no result is lost when the trainer finished while nobody watched', async () => {
  const { run, attempt, untilTraining } = rehearse();
  const first = attempt(1, ['succeeds', '--steps', '20', '--seconds-per-step', '0.05']);
  const trainer = await untilTraining();
  first.end('WORKER_SHUTDOWN', { workerShutdown: true });
  await expect(first.result).rejects.toBeInstanceOf(CancelledFailure);
  await eventually(() => !trainerIsAlive(trainer));
  expect(await attempt(2, ['succeeds']).result).toMatchObject({ steps: 20, resumes: 0 });
  expect(stepsOf(await readEvents(run.events))).toHaveLength(20);
});

test.concurrent.each([
  ['when the worker shuts down', 'WORKER_SHUTDOWN', { workerShutdown: true }],
  ['when the server was away', 'TIMED_OUT', { timedOut: true, notFound: true }],
  ['when the server knows the attempt no more', 'NOT_FOUND', { notFound: true }],
  ['when the activity is reset', 'RESET', { reset: true }],
] as const)('the trainer goes on %s', async (_, reason, details) => {
  const { attempt, untilTraining } = rehearse();
  const first = attempt(1, ['succeeds', '--steps', ENDLESS]);
  const trainer = await untilTraining();
  first.end(reason, details);
  await expect(first.result).rejects.toBeInstanceOf(CancelledFailure);
  expect(trainerIsAlive(trainer)).toBe(true);
});

test.concurrent('the trainer goes on, and the next attempt finds it and takes it to its end', async () => {
  const { run, attempt, untilTraining } = rehearse();
  const first = attempt(1, ['succeeds', '--steps', ENDLESS]);
  const trainer = await untilTraining();
  first.end('WORKER_SHUTDOWN', { workerShutdown: true });
  await expect(first.result).rejects.toBeInstanceOf(CancelledFailure);
  const second = attempt(2, ['fails']);
  await eventually(() => second.beats.some(({ pid }) => pid === trainer.pid));
  await second.requestStop();
  const stopped = { stopped: true, resumes: 0, attempt: 2, headline: expect.stringContaining('stopped on request') };
  expect(await second.result).toMatchObject(stopped);
  expect((await processOf(run)).pid).toBe(trainer.pid);
});

test.concurrent.each<[string, [StandIn, ...string[]]]>([
  ['one that listens', ['succeeds', '--steps', ENDLESS]],
  ['one that ignores SIGTERM', ['ignores_sigterm', '--steps', ENDLESS]],
  ['one with children in sessions of their own', ['spawns_children', '--steps', ENDLESS]],
])('a cancel ends a trainer within 15 seconds and keeps its checkpoints: %s', async (_, command) => {
  const { run, attempt, untilTraining } = rehearse();
  const first = attempt(1, command);
  const trainer = await untilTraining();
  await eventually(async () => (await readEvents(run.events)).some(({ type }) => type === 'checkpoint'));
  const children = (await readJson<number[]>(join(run.trainOutput, 'children.json'))) ?? [];
  const asked = Date.now();
  first.end('CANCELLED', { cancelRequested: true });
  await expect(first.result).rejects.toBeInstanceOf(CancelledFailure);
  expect(Date.now() - asked).toBeLessThan(15_000);
  expect([trainer.pid, trainer.keeper.pid, ...children].filter(runs)).toEqual([]);
  expect(readdirSync(run.trainOutput)).toContain('checkpoint-2');
});

test.concurrent('a pause frees the GPU, and the next attempt goes on after the last step', async () => {
  const { run, attempt, untilTraining } = rehearse();
  const first = attempt(1, ['succeeds', '--steps', ENDLESS, '--save-steps', ENDLESS]);
  const trainer = await untilTraining();
  first.end('PAUSED', { paused: true });
  await expect(first.result).rejects.toBeInstanceOf(CancelledFailure);
  expect(trainerIsAlive(trainer)).toBe(false);
  const last = stepsOf(await readEvents(run.events)).at(-1) ?? 0;
  const second = await attempt(2, ['succeeds', '--steps', String(last + 2)]).result;
  expect(second).toMatchObject({ steps: last + 2, resumes: 1, headline: expect.stringContaining('resumed 1 ×') });
  expect(stepsOf(await readEvents(run.events))).toEqual(Array.from({ length: last + 2 }, (_, index) => index + 1));
});

test.concurrent(
  "an attempt that was superseded cannot stop its successor's trainer, and the successor can",
  async () => {
    const { attempt, untilTraining } = rehearse();
    const first = attempt(1, ['succeeds', '--steps', ENDLESS]);
    const trainer = await untilTraining();
    const second = attempt(2, ['succeeds']);
    await eventually(() => second.beats.some(({ pid }) => pid === trainer.pid));
    first.end('CANCELLED', { cancelRequested: true });
    await expect(first.result).rejects.toBeInstanceOf(CancelledFailure);
    expect(trainerIsAlive(trainer)).toBe(true);
    second.end('CANCELLED', { cancelRequested: true });
    await expect(second.result).rejects.toBeInstanceOf(CancelledFailure);
    expect(trainerIsAlive(trainer)).toBe(false);
  },
);

test.concurrent(
  'an attempt that was superseded by another training gives up when its trainer is replaced, and counts no crash',
  async () => {
    const { run, attempt, untilTraining } = rehearse();
    const first = attempt(1, ['succeeds', '--steps', ENDLESS]);
    const trainer = await untilTraining();
    const second = attempt(2, ['succeeds'], { rows: 'other rows' });
    await expect(first.result).rejects.toMatchObject({
      type: 'TrainerError',
      message: expect.stringContaining('Another attempt'),
    });
    expect(await second.result).toMatchObject({ steps: 4 });
    expect(trainerIsAlive(trainer)).toBe(false);
    expect(await readJson(run.attempts)).toMatchObject({ owner: expect.stringMatching(/2$/), crashes: [] });
  },
);

test.concurrent(
  'running out of memory halves the rows at once until they fit, in one attempt, and the next run begins there',
  async () => {
    const { home, run, attempt } = rehearse();
    const { result } = attempt(1, ['out_of_memory', '--fits', '4']);
    expect(await result).toMatchObject({ cut: { microBatch: 4, accumulation: 4 }, attempt: 1 });
    const failures = (await readEvents(run.events)).filter(({ type }) => type === 'failed');
    expect(failures).toHaveLength(2);
    const next = await attempt(1, ['out_of_memory', '--fits', '4'], { runName: 'next' }).result;
    expect(next.cut).toEqual({ microBatch: 4, accumulation: 4 });
    const nextEvents = await readEvents(runDirectory(home, 'next').events);
    expect(nextEvents.filter(({ type }) => type === 'failed')).toEqual([]);
  },
);

test.concurrent(
  'running out of memory turns on the gradient checkpointing that the plan had left out, before rows are halved',
  async () => {
    const { home, run, attempt } = rehearse();
    const planned = { disable_gradient_checkpointing: true };
    const command: [StandIn, ...string[]] = ['out_of_memory', '--fits', '4', '--fits-checkpointed', '8'];
    expect(await attempt(1, command, { planned }).result).toMatchObject({ cut: { microBatch: 8, accumulation: 2 } });
    expect(readFileSync(run.trainConfig, 'utf8')).toContain('disable_gradient_checkpointing: false');
    const next = runDirectory(home, 'configured');
    const result = await attempt(1, command, { planned, isConfigured: true, runName: 'configured' }).result;
    expect(result).toMatchObject({ cut: { microBatch: 4, accumulation: 4 } });
    expect(readFileSync(next.trainConfig, 'utf8')).toContain('disable_gradient_checkpointing: true');
  },
);

test.concurrent('running out of memory with a single row is a failure by that name', async () => {
  const { attempt } = rehearse();
  const { result } = attempt(1, ['out_of_memory', '--fits', '0']);
  await expect(result).rejects.toMatchObject({
    type: 'OutOfMemoryError',
    message: expect.stringContaining('CUDA out of memory'),
  });
});

test.concurrent('running out of memory leads to a cut that a later attempt keeps', async () => {
  const { attempt, untilTraining } = rehearse();
  const first = attempt(1, ['out_of_memory', '--fits', '4', '--steps', ENDLESS]);
  await untilTraining();
  first.end('WORKER_SHUTDOWN', { workerShutdown: true });
  await expect(first.result).rejects.toBeInstanceOf(CancelledFailure);
  const second = attempt(2, ['fails']);
  await second.requestStop();
  expect(await second.result).toMatchObject({ cut: { microBatch: 4, accumulation: 4 }, attempt: 2 });
});

test.concurrent(
  'a trainer that fails again and again in one place ends the run at the third time, with its own last words and its log',
  async () => {
    const { run, attempt } = rehearse();
    const failures = [];
    for (const number of [1, 2, 3]) failures.push(await failureOf(attempt(number, ['fails'])));
    expect(failures.map(({ type, nonRetryable }) => [type, nonRetryable])).toEqual([
      ['TrainerError', false],
      ['TrainerError', false],
      ['TrainerError', true],
    ]);
    expect(failures[2]?.message).toContain('ValueError: this row has no answer');
    expect(failures[2]?.message).toContain(run.trainerLog);
    expect(readFileSync(run.trainerLog, 'utf8')).toContain('ended with exit code 1');
  },
);

test.concurrent('a trainer that fails is started again as long as each one gets further', async () => {
  const { attempt } = rehearse();
  const command: [StandIn, ...string[]] = ['fails', '--gain', '2', '--steps', '10'];
  for (const number of [1, 2, 3, 4]) {
    expect(await failureOf(attempt(number, command))).toMatchObject({ type: 'TrainerError', nonRetryable: false });
  }
  expect(await attempt(5, ['succeeds', '--steps', '10']).result).toMatchObject({ steps: 10, resumes: 4 });
});

test.concurrent.each(['DatasetError', 'ConfigError', 'HostError'])(
  'a trainer that fails with a %s fails the stage by that name',
  async (name) => {
    const { attempt } = rehearse();
    const failure = await failureOf(attempt(1, ['fails', '--error', name]));
    expect(failure).toMatchObject({ type: name, message: expect.stringContaining('this row has no answer') });
  },
);

test.concurrent('a trainer that dies in a checkpoint is resumed from the one before', async () => {
  const { run, attempt } = rehearse();
  const command: [StandIn, ...string[]] = ['dies_mid_checkpoint', '--deaths', '1', '--steps', '6'];
  expect(await failureOf(attempt(1, command))).toMatchObject({
    type: 'TrainerError',
    message: expect.stringContaining('SIGKILL'),
  });
  const second = await attempt(2, command).result;
  expect(second).toMatchObject({ steps: 6, resumes: 1, finalLoss: (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 6 });
  expect(readdirSync(join(run.trainOutput, 'damaged'))).toEqual(['checkpoint-4.2']);
});

test.concurrent('a stop that is asked for before the training has begun ends it after its first step', async () => {
  const { attempt } = rehearse();
  expect(await attempt(1, ['succeeds', '--steps', ENDLESS], { stopFirst: true }).result).toMatchObject({
    steps: 1,
    stopped: true,
  });
});

test.concurrent('the stand-ins are given only what train.py takes', async () => {
  const { run, attempt } = rehearse();
  await attempt(1, ['succeeds']).result;
  const { argv } = await processOf(run);
  const taken = readFileSync(join(checkout, 'trainer/train.py'), 'utf8');
  const given = argv.filter((argument) => argument.startsWith('--'));
  expect(given.filter((flag) => !taken.includes(`add_argument("${flag}"`))).toEqual([]);
});

interface Changes {
  rows?: string;
  runName?: string;
  stopFirst?: boolean;
  /** Options of the plan, in `train/config.yaml` too; with `isConfigured` the config has them. */
  planned?: Record<string, unknown>;
  isConfigured?: boolean;
}

interface Attempt {
  result: Promise<TrainModelResult>;
  /** What its heartbeats said. */
  beats: Record<string, unknown>[];
  /** End the attempt as Temporal would. */
  end: (reason: CancelReason, details: Partial<ActivityCancellationDetails>) => void;
  /** The activity requestStop of the same run. */
  requestStop: () => Promise<unknown>;
}

type CancelReason = NonNullable<Parameters<MockActivityEnvironment['cancel']>[0]>;

/** A home with a run for one test. */
function rehearse() {
  const home = newFolder();
  const run = runDirectory(home, 'run');
  return {
    home,
    run,
    attempt: (number: number, command: [StandIn, ...string[]], changes: Changes = {}) =>
      attemptIn(home, number, command, changes),
    untilTraining: () => untilTraining(run),
  };
}

/** Begin an attempt of trainModel with a stand-in for the trainer. */
function attemptIn(home: string, number: number, [name, ...flags]: [StandIn, ...string[]], changes: Changes): Attempt {
  const { rows = 'rows', runName = 'run' } = changes;
  const trainerCommand = standIn(name, ...flags);
  const activities = createActivities(settingsOf(home, { trainerCommand }));
  const info = { attempt: number, workflowExecution: { workflowId: runName, runId: 'first-run' } };
  const environment = () => new MockActivityEnvironment(info, { logger: new DefaultLogger('ERROR') });
  const env = environment();
  const beats: Record<string, unknown>[] = [];
  env.on('heartbeat', (details: Record<string, unknown>) => void beats.push(details));
  const requestStop = () => environment().run(activities.requestStop, { reason: 'good enough' });
  const begin = async () => {
    if (changes.stopFirst) await requestStop();
    const input = inputOf(rows, changes);
    if (changes.planned !== undefined) await writeTrainingConfig(openRunDirectory(home, runName), input.plan.training);
    return env.run<[TrainModelInput], TrainModelResult, Activities['trainModel']>(activities.trainModel, input);
  };
  return {
    result: begin(),
    beats,
    end: (reason, details) => env.cancel(reason, new ActivityCancellationDetails(details)),
    requestStop,
  };
}

function inputOf(rows: string, { planned = {}, isConfigured = false }: Changes): TrainModelInput {
  const training = {
    model_name_or_path: join(checkout, 'demo/tiny-qwen3-vl'),
    per_device_train_batch_size: 16,
    gradient_accumulation_steps: 1,
  };
  return {
    config: { limits: { trainingHours: 1 } } as ResolvedConfig,
    environment: {
      precision: 'fp16',
      training: { ...training, ...(isConfigured ? planned : {}) },
      gpus: [],
      warnings: [],
      versions: {},
      headline: '',
    },
    dataset: {
      rows: 1,
      kept: 1,
      trainRows: 1,
      heldOutRows: 0,
      digest: rows,
      reportPath: '',
      problemCount: 0,
      headline: '',
    },
    plan: {
      gpus: 0,
      gpuIndices: [],
      globalBatch: 16,
      cut: { microBatch: 16, accumulation: 1 },
      training: { ...training, ...planned },
      continuedFrom: null,
    },
  };
}

/** The run's trainer, once it has made a step in the training that goes on now. */
async function untilTraining(run: RunDirectory): Promise<TrainerProcess> {
  return eventually(async () => {
    const trainer = await findTrainer(run);
    const events = await readEvents(run.events);
    const started = events.findLastIndex((event) => event.type === 'started' && event.pid === trainer?.pid);
    return started >= 0 && stepsOf(events.slice(started)).length > 0 ? trainer : undefined;
  });
}

async function processOf(directory: RunDirectory): Promise<TrainerProcess> {
  return eventually(() => readJson<TrainerProcess>(directory.process));
}

function stepsOf(events: Awaited<ReturnType<typeof readEvents>>): number[] {
  return events.flatMap((event) => (event.type === 'step' ? [event.step] : []));
}

async function failureOf({ result }: Attempt): Promise<ApplicationFailure> {
  return result.then(
    () => {
      throw new Error('it did not fail');
    },
    (error: unknown) => error as ApplicationFailure,
  );
}

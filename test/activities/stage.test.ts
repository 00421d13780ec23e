import { beforeEach, describe, expect, test } from '@jest/globals';
import { ApplicationFailure, CancelledFailure } from '@temporalio/activity';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { stage, type StageContext, type StageResult } from '../../activities/stage.ts';
import { ConfigError } from '../../configs/config-error.ts';
import { errorNames, TemperError } from '../../host/errors.ts';
import { runDirectory } from '../../host/run-directory.ts';
import type { HostSettings } from '../../host/settings.ts';
import { readAttempts } from '../../host/stage-attempts.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { settingsOf } from '../support/settings.ts';

type Work = (input: string, context: StageContext) => Promise<StageResult>;

let settings: HostSettings;

beforeEach(() => {
  settings = settingsOf(newFolder());
});

describe('an error that somebody can act on reaches Temporal by its name', () => {
  test.each(errorNames)('%s', async (name) => {
    const error = new TemperError(name, 'what, where, the fix', { details: { row: 3 } });
    const failure = await failureOf(() => Promise.reject(error));
    expect(failure).toBeInstanceOf(ApplicationFailure);
    expect(failure).toMatchObject({
      type: name,
      message: 'what, where, the fix',
      details: [{ row: 3 }],
      nonRetryable: false,
    });
  });

  test("the config's own error", async () => {
    const error = new ConfigError('demo', [{ path: 'train.lora_rnak', message: 'is no option' }]);
    expect(await failureOf(() => Promise.reject(error))).toMatchObject({ type: 'ConfigError', message: error.message });
  });

  test('a run name that cannot be a folder', async () => {
    const { run } = environment({ workflowId: '../other' });
    await expect(run(done)).rejects.toMatchObject({
      type: 'ConfigError',
      message: expect.stringContaining('"../other"'),
    });
  });
});

test('any other error reaches it as it is', async () => {
  const error = new TypeError('a mistake in Temper');
  expect(await failureOf(() => Promise.reject(error))).toBe(error);
});

test('a failure that already says whether another attempt helps is left alone', async () => {
  const failure = ApplicationFailure.nonRetryable('three times', 'TrainerError');
  expect(await failureOf(() => Promise.reject(failure))).toBe(failure);
});

describe('a cancel is never hidden', () => {
  test('by work that stops for it', async () => {
    const { env, run } = environment();
    const running = run(async (_, { signal }) => {
      await aborted(signal);
      signal.throwIfAborted();
      return done();
    });
    env.cancel();
    await expect(running).rejects.toBeInstanceOf(CancelledFailure);
  });

  test('by work that ends well all the same', async () => {
    const { env, run } = environment();
    const running = run(async (_, { signal }) => {
      await aborted(signal);
      return done();
    });
    env.cancel();
    await expect(running).rejects.toBeInstanceOf(CancelledFailure);
  });
});

test('the work gets the run, the attempt and a name of its own among all attempts', async () => {
  const owners: string[] = [];
  for (const attempt of [1, 2]) {
    const { run } = environment({ attempt });
    const result = await run((input, context) => {
      owners.push(context.owner);
      expect(context).toMatchObject({ runName: 'my-run', attempt, settings });
      expect(context.run.path).toBe(join(settings.home, 'runs/my-run'));
      return Promise.resolve({ headline: `done with ${input}` });
    });
    expect(result).toEqual({ headline: 'done with the input', attempt });
  }
  expect(new Set(owners).size).toBe(2);
  expect(existsSync(join(settings.home, 'runs/my-run'))).toBe(true);
});

test('each attempt is written down in the run directory: when it was wanted, when it began, how it ended', async () => {
  const works: [Work, string, string?][] = [
    [() => Promise.resolve({ headline: '3 merged' }), 'done'],
    [() => Promise.reject(new TemperError('HostError', 'no disk')), 'failed', 'HostError'],
    [() => Promise.reject(ApplicationFailure.nonRetryable('again', 'TrainerError')), 'failed', 'TrainerError'],
    [() => Promise.reject(new TypeError('a mistake in Temper')), 'failed'],
    [() => Promise.reject(new CancelledFailure('enough')), 'cancelled'],
  ];
  for (const [index, [work]] of works.entries())
    await environment({ attempt: index + 1, scheduledTimestampMs: 86_400_000 })
      .run(work)
      .catch(() => {});
  const noted = await readAttempts(runDirectory(settings.home, 'my-run'), 'merge');
  expect(noted).toMatchObject(
    works.flatMap(([, how, error], index) => [
      { type: 'began', attempt: index + 1, scheduledAt: '1970-01-02T00:00:00.000Z' },
      { type: 'ended', attempt: index + 1, how, ...(error === undefined ? {} : { error }) },
    ]),
  );
  expect(noted.filter((line) => 'error' in line)).toHaveLength(2);
  const said = noted.flatMap((line) => (line.type === 'ended' ? [line.headline] : []));
  expect(said).toEqual(['3 merged', 'no disk', 'again', 'a mistake in Temper', undefined]);
  expect(noted.every(({ at }) => Math.abs(Date.parse(at) - Date.now()) < 60_000)).toBe(true);
});

test('heartbeats begin at once, go on by themselves, and end with the last news', async () => {
  const { env, run } = environment();
  const beats: unknown[] = [];
  env.on('heartbeat', (details) => void beats.push(details));
  await run(async (_, { report }) => {
    expect(beats).toEqual([{ stage: 'merge' }]);
    report({ done: 1 });
    report({ done: 2 });
    await new Promise((resolve) => env.once('heartbeat', resolve));
    report({ done: 3 });
    return done();
  });
  expect(beats).toEqual([{ stage: 'merge' }, { stage: 'merge', done: 2 }, { stage: 'merge', done: 3 }]);
});

function environment({ workflowId = 'my-run', attempt = 1, scheduledTimestampMs = 1 } = {}) {
  const info = { attempt, scheduledTimestampMs, workflowExecution: { workflowId, runId: 'first-run' } };
  const env = new MockActivityEnvironment(info, { logger: new DefaultLogger('ERROR') });
  return { env, run: (work: Work) => env.run(stage('merge', settings, work), 'the input') };
}

async function failureOf(work: Work): Promise<unknown> {
  return environment()
    .run(work)
    .then(
      () => undefined,
      (error: unknown) => error,
    );
}

async function done(): Promise<StageResult> {
  return Promise.resolve({ headline: 'done' });
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
}

import { beforeEach, describe, expect, test } from '@jest/globals';
import { appendFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../../host/checkout.ts';
import { readGoodput } from '../../../host/goodput/run-goodput.ts';
import { appendLine } from '../../../host/json-lines.ts';
import { stepFlops, type StepWork } from '../../../host/planning/mfu.ts';
import { readModelShape } from '../../../host/planning/model-shape.ts';
import type { RunDirectory } from '../../../host/run-directory.ts';
import { writeJson } from '../../../host/state-file.ts';
import type { TrainingEvent } from '../../../host/training-events.ts';
import { stopTrainer } from '../../../host/trainer-process.ts';
import { ENDLESS, eventually, newFolder, newRun, startStandIn } from '../../fixtures/trainers/stand-in.ts';
import { leaveTraining } from '../../support/goodput-run.ts';

const base = join(checkout, 'demo/tiny-qwen3-vl');
const work: StepWork = { tokens: 1000, attendedPairs: 50_500, patches: 640, patchPairs: 40_960, logitPositions: 100 };
const setup = { device: 'NVIDIA GeForce RTX 4090', devices: 2, precision: 'bf16', trainableParameters: 5000 } as const;

let run: RunDirectory;

beforeEach(() => {
  run = newRun();
  mkdirSync(run.train, { recursive: true });
});

test('what was written down in the run directory is read again', async () => {
  const { run: left, truth } = await leaveTraining(newFolder(), 'struck', 7);
  const goodput = await readGoodput(left);
  expect(goodput?.state).toBe('done');
  expect(goodput?.seconds.productive).toBeCloseTo(truth.productive, 2);
  expect(goodput?.seconds.queue).toBeCloseTo(truth.queue, 2);
});

test('a run that never trained has none', async () => {
  expect(await readGoodput(run)).toBeUndefined();
});

describe('with what the trainer counted', () => {
  beforeEach(async () => {
    await writeJson(run.run, { config: { train: { model_name_or_path: base } } });
    tell({ type: 'started', attempt: 1, pid: 7, resumedFrom: null, resumedAtStep: 0, time: 0 });
    tell({ type: 'setup', ...setup, time: 5 });
    tell({ type: 'phase', phase: 'training', time: 5 });
    for (const step of [1, 2, 3])
      tell({ type: 'step', step, loss: 1, maxSteps: 3, work, time: step === 1 ? 9 : 7 + 2 * step });
    tell({ type: 'phase', phase: 'finishing', time: 13 });
    tell({ type: 'finished', atStep: 3, maxSteps: 3, stopped: false, adapter: '', time: 14 });
  });

  test('tokens a second and utilization are of the productive time', async () => {
    const goodput = await readGoodput(run);
    const flops = stepFlops(await readModelShape(base), {}, setup.trainableParameters, work) ?? NaN;
    expect(goodput).toMatchObject({ device: '2 × NVIDIA GeForce RTX 4090', seconds: { productive: 6, startUp: 7 } });
    expect(goodput?.tokensPerSecond).toBeCloseTo(500);
    expect(goodput?.mfu).toBeCloseTo(flops / (2 * 2 * 165.2e12), 12);
  });

  test('the shape that the plan has written down is taken when the base is gone', async () => {
    const options = { model_name_or_path: '/gone' };
    await writeJson(run.run, { config: { train: options } });
    expect((await readGoodput(run))?.mfu).toBeUndefined();
    await writeJson(run.run, {
      config: { train: options },
      plan: { training: options, shape: await readModelShape(base) },
    });
    expect((await readGoodput(run))?.mfu).toBeGreaterThan(0);
  });
});

test('attempts of another training that the folder held before are not counted', async () => {
  const at = (second: number) => new Date(second * 1000).toISOString();
  const began = (executionId: string, second: number) => {
    const line = {
      type: 'began',
      stage: 'trainModel',
      executionId,
      attempt: 1,
      scheduledAt: at(second - 5),
      at: at(second),
    };
    appendLine(run.stageAttempts, line);
  };
  began('an older one', 1000);
  began('this one', 2000);
  await writeJson(run.attempts, { since: at(2000.5) });
  tell({ type: 'started', attempt: 1, pid: 7, resumedFrom: null, resumedAtStep: 0, time: 2002 });
  tell({ type: 'phase', phase: 'importing', time: 2003 });
  expect(await readGoodput(run)).toMatchObject({ since: at(1995), wallSeconds: 8, state: 'ended' });
});

test('of a run that trains everything up to now is counted', async () => {
  const trainer = await startStandIn(run, ['succeeds', '--steps', ENDLESS]);
  const early = await eventually(async () => {
    const goodput = await readGoodput(run);
    return goodput && goodput.steps.length > 2 ? goodput : undefined;
  });
  expect(early.state).toBe('running');
  expect(Math.abs(Date.parse(early.since) / 1000 + early.wallSeconds - Date.now() / 1000)).toBeLessThan(2);
  await stopTrainer(trainer, 0);
  expect((await readGoodput(run))?.state).toBe('ended');
});

function tell(event: TrainingEvent): void {
  appendFileSync(run.events, `${JSON.stringify(event)}\n`);
}

import { expect } from '@jest/globals';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { PlanTrainingResult } from '../../activities/plan-training.ts';
import { eventually, Rehearsal, type Run } from '../../bench/rehearsal.ts';
import { checkout } from '../../host/checkout.ts';
import { digestOfValue } from '../../host/digest.ts';
import { lossCurve } from '../../host/training-events.ts';
import type { TrainerProcess } from '../../host/trainer-process.ts';
import { standIn, type StandIn } from '../fixtures/trainers/stand-in.ts';
import { quickActivities } from './activities.ts';

const worker = fileURLToPath(new URL('../fixtures/workers/training-worker.mjs', import.meta.url));

/** What a worker needs to lose a training: a server and a run whose trainer, a stand-in, has made its first steps. */
export interface Scene {
  rehearsal: Rehearsal;
  run: Run;
  trainer: TrainerProcess;
}

/** Play one death on a server and a worker of their own; at the end there was never more than one trainer at once. */
export async function play(
  [name, ...flags]: [StandIn, ...string[]],
  act: (scene: Scene) => Promise<void>,
): Promise<void> {
  const rehearsal = await Rehearsal.open([worker], {
    TRAINER_COMMAND: JSON.stringify(standIn(name, ...flags)),
    STAGE_RESULTS: JSON.stringify(await quickResults()),
  });
  try {
    const run = await rehearsal.start('run', { name: 'stand-in' });
    const trainer = await run.trainingPast(0);
    await act({ rehearsal, run, trainer });
    expect(run.count.most).toBe(1);
  } finally {
    await rehearsal.close();
  }
}

/** Finish the run; its loss curve must be the undisturbed one: every step once, with the stand-in's loss 1/step. */
export async function finishUndisturbed(run: Run): Promise<void> {
  await run.finish();
  await expectUndisturbed(run);
}

export async function expectUndisturbed(run: Run): Promise<void> {
  const curve = lossCurve(await run.events());
  expect(digestOfValue(curve)).toBe(
    digestOfValue(curve.map((_, index) => ({ step: index + 1, loss: 1 / (index + 1) }))),
  );
}

/** How often a trainer of the run took up its training, the first start included. */
export async function starts(run: Run): Promise<number> {
  return (await run.events()).filter(({ type }) => type === 'started').length;
}

/** Let the server miss the training's heartbeats sooner than after a minute, with the CLI, on the attempt that runs. */
export async function shortenHeartbeatTimeout(run: Run, seconds: number): Promise<void> {
  await run.activity('update-options', '--heartbeat-timeout', `${seconds}s`);
}

export { eventually };

/** The results of all stages but the training. */
async function quickResults(): Promise<Record<string, unknown>> {
  const own = ['trainModel', 'requestStop', 'listHosts', 'describeHost'];
  const quick = Object.entries(quickActivities([])).filter(([name]) => !own.includes(name));
  const results: Record<string, unknown> = {};
  for (const [name, work] of quick) results[name] = await (work as () => Promise<unknown>)();
  const training = {
    model_name_or_path: join(checkout, 'demo/tiny-qwen3-vl'),
    per_device_train_batch_size: 16,
    gradient_accumulation_steps: 1,
  };
  const planned = results.planTraining as PlanTrainingResult;
  return { ...results, planTraining: { ...planned, plan: { ...planned.plan, training } } };
}

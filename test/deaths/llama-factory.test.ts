import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { cardsTraining } from '../../bench/cards-training.ts';
import { lostSteps } from '../../bench/lost-steps.ts';
import { Rehearsal, type Run } from '../../bench/rehearsal.ts';
import { signal } from '../../host/process-table.ts';
import { lossCurve } from '../../host/training-events.ts';
import { shortenHeartbeatTimeout } from '../support/deaths.ts';

// The real LLaMA-Factory below the real `temper worker`: one run that nobody disturbs, one that is killed twice.
jest.setTimeout(400_000);

const SAVE_STEPS = 5;
let rehearsal: Rehearsal;
let undisturbed: Run;
let struck: Run;

beforeAll(async () => {
  rehearsal = await Rehearsal.open();
  const config = await cardsTraining({ max_steps: 24, save_steps: SAVE_STEPS });
  undisturbed = await rehearsal.start('undisturbed', config);
  await undisturbed.ended();

  struck = await rehearsal.start('struck', config);
  const first = await struck.trainingPast(6);
  await shortenHeartbeatTimeout(struck, 10);
  signal(first, 'SIGKILL');
  await struck.trainingPast(12);
  await rehearsal.killEverything(struck.directory);
  await rehearsal.startServer();
  await rehearsal.startWorker();
  await struck.ended();
}, 400_000);

afterAll(async () => rehearsal.close());

test('a training whose trainer was killed, and then everything at once, has the losses of an undisturbed one', async () => {
  const [expected, losses] = [await curveOf(undisturbed), await curveOf(struck)];
  expect(expected).toHaveLength(24);
  expect(losses.map(({ step }) => step)).toEqual(expected.map(({ step }) => step));
  const apart = losses.map(({ loss }, index) => Math.abs((loss ?? NaN) - (expected[index]?.loss ?? NaN)));
  expect(Math.max(...apart)).toBeLessThan(1e-6);
});

test('each of the two deaths cost no more steps than there are between two checkpoints', async () => {
  const lost = lostSteps(await struck.events());
  expect(lost).toHaveLength(2);
  expect(Math.max(...lost)).toBeLessThanOrEqual(SAVE_STEPS);
});

test('there was never more than one trainer', () => {
  expect([undisturbed.count.most, struck.count.most]).toEqual([1, 1]);
});

async function curveOf(run: Run): Promise<{ step: number; loss: number | null }[]> {
  return lossCurve(await run.events());
}

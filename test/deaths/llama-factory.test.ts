import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { cardsTraining } from '../../bench/cards-training.ts';
import { lostSteps } from '../../bench/lost-steps.ts';
import { Rehearsal, type Run } from '../../bench/rehearsal.ts';
import { readGoodput, type RunGoodput } from '../../host/goodput/run-goodput.ts';
import { signal } from '../../host/process-table.ts';
import { readAttempts } from '../../host/stage-attempts.ts';
import { lossCurve } from '../../host/training-events.ts';

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

test('its ledger gives every second between the stage being scheduled and its end to one cause', async () => {
  const goodput = await goodputOf(struck);
  const { scheduled, completed } = await trainingByTemporal(struck);
  const sum = Object.values(goodput.seconds).reduce((all, seconds) => all + seconds, 0);
  expect(sum).toBeCloseTo(goodput.wallSeconds, 3);
  expect(Math.abs(goodput.wallSeconds - (completed - scheduled))).toBeLessThan(1);
  expect(Math.abs(Date.parse(goodput.since) / 1000 - scheduled)).toBeLessThan(1);
});

test('it counts as productive what the steps of the final weights took, and the others as repeated', async () => {
  const goodput = await goodputOf(struck);
  const lost = lostSteps(await struck.events()).reduce((all, steps) => all + steps, 0);
  expect(goodput).toMatchObject({ state: 'done', repeatedSteps: lost });
  expect(goodput.steps.map(({ event }) => event.step)).toEqual(Array.from({ length: 24 }, (_, index) => index + 1));
  const told = goodput.steps.reduce(
    (all, { event }) => all + Math.min(event.secondsPerStep ?? NaN, medianStep(goodput)),
    0,
  );
  expect(Math.abs(goodput.seconds.productive / told - 1)).toBeLessThan(0.3);
  expect(goodput.seconds.repeated).toBeGreaterThan(0);
  expect(goodput.seconds.saving).toBeGreaterThan(0);
  expect(goodput.seconds).toMatchObject({ hang: 0, evaluation: 0 });
  expect(goodput.tokensPerSecond).toBeGreaterThan(0);
});

test('each of its three starts is broken down, from its cause to its first step', async () => {
  const { startUps } = await goodputOf(struck);
  expect(startUps.map(({ isResume, resumedAtStep }) => [isResume, resumedAtStep > 0])).toEqual([
    [false, false],
    [true, true],
    [true, true],
  ]);
  for (const { seconds, parts } of startUps) {
    expect(parts.importing).toBeGreaterThan(1);
    expect(parts.firstStep).toBeGreaterThan(0);
    expect(parts.process + parts.importing + parts.loading).toBeLessThan(seconds ?? NaN);
  }
});

test('a new worker tells the server of the attempt that died with the old one, and no heartbeat timeout passes', async () => {
  const { startUps } = await goodputOf(struck);
  expect(startUps.at(-1)?.parts.waiting).toBeLessThan(40);
  const attempts = await readAttempts(struck.directory, 'trainModel');
  expect(attempts.flatMap((each) => (each.type === 'ended' ? [each.how] : []))).toEqual(['failed', 'lost', 'done']);
});

async function goodputOf({ directory }: Run): Promise<RunGoodput> {
  const goodput = await readGoodput(directory);
  if (goodput === undefined) throw new Error('there is nothing to account for');
  return goodput;
}

function medianStep({ steps }: RunGoodput): number {
  const sorted = steps.map(({ event }) => event.secondsPerStep ?? NaN).sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}

/** When the training was scheduled and completed by the server's own history, in seconds since the epoch. */
async function trainingByTemporal({ handle }: Run): Promise<{ scheduled: number; completed: number }> {
  const { events = [] } = await handle.fetchHistory();
  const scheduled = events?.find(
    (event) => event.activityTaskScheduledEventAttributes?.activityType?.name === 'trainModel',
  );
  const completed = events?.find(
    (event) => event.activityTaskCompletedEventAttributes?.scheduledEventId?.toString() === String(scheduled?.eventId),
  );
  const at = (time: { seconds?: unknown; nanos?: number | null } | null | undefined) =>
    Number(time?.seconds) + (time?.nanos ?? 0) / 1e9;
  return { scheduled: at(scheduled?.eventTime), completed: at(completed?.eventTime) };
}

async function curveOf(run: Run): Promise<{ step: number; loss: number | null }[]> {
  return lossCurve(await run.events());
}

import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { existsSync, mkdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CleanRunsInput } from '../../activities/clean-runs.ts';
import { createActivities, type Activities } from '../../activities/index.ts';
import { checkout } from '../../host/checkout.ts';
import { openRunDirectory, runDirectory } from '../../host/run-directory.ts';
import type { cleanRuns } from '../../workflows/clean-runs.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { quickActivities } from '../support/activities.ts';
import { startServer, withWorkers } from '../support/temporal.ts';
import { settingsOf } from '../support/settings.ts';

jest.setTimeout(60_000);

let env: TestWorkflowEnvironment;
let home: string;
let activities: Activities;

beforeAll(async () => {
  env = await startServer();
  home = newFolder();
  const folders = { configsFolder: join(checkout, 'configs'), modelsRoot: home, dataRoots: [home] };
  const real = createActivities(settingsOf(home, folders));
  const { planCleanRuns, applyCleanRuns } = real;
  activities = quickActivities([], { planCleanRuns, applyCleanRuns });
});
afterAll(async () => env.teardown());

/** A run that wrote its last word a year ago. */
function makeOldRun(runName: string): string {
  const run = openRunDirectory(home, runName);
  mkdirSync(run.merged);
  const weights = join(run.merged, 'model.safetensors');
  writeFileSync(weights, 'weights');
  writeFileSync(run.run, '{}');
  const then = new Date(Date.now() - 365 * 86_400_000);
  for (const path of [run.run, run.path]) utimesSync(path, then, then);
  return weights;
}

async function clean(...args: [CleanRunsInput?]) {
  const workflowId = `clean-${Math.random()}`;
  return env.client.workflow.execute<typeof cleanRuns>('cleanRuns', { taskQueue: TASK_QUEUE, workflowId, args });
}

test('first says what it would clean, then cleans it, but never a run whose workflow goes on', async () => {
  const [old, open] = [makeOldRun('old'), makeOldRun('open')];
  await env.client.workflow.start('fineTune', { taskQueue: 'nobody', workflowId: 'open', args: [{ config: 'x' }] });
  await withWorkers(env, activities, async () => {
    const [planned] = await clean();
    const kept = [{ runName: 'open', why: 'its workflow goes on' }];
    expect(planned).toMatchObject({ dryRun: true, cleaned: [{ runName: 'old' }], kept });
    expect(planned?.headline).toBe('1 run would be cleaned, 7 B; 1 needed and kept');
    expect([existsSync(old), existsSync(open)]).toEqual([true, true]);

    const [done] = await clean({ dryRun: false });
    expect(done).toMatchObject({ dryRun: false, cleaned: [{ runName: 'old', bytes: 7 }], kept, bytes: 7 });
    expect([existsSync(old), existsSync(open)]).toEqual([false, true]);
    expect(existsSync(runDirectory(home, 'old').run)).toBe(true);
  });
});

test.each<[string, object, RegExp]>([
  ['an unknown key', { keepDay: 3 }, /it has no key keepDay/],
  ['days that are none', { keepDays: -1 }, /keepDays takes a number of days from 0/],
  ['a dryRun that is neither', { dryRun: 'no' }, /dryRun takes true or false/],
])('%s is refused, and nothing is cleaned', async (_, input, message) => {
  await withWorkers(env, activities, async () => {
    const failure = (await clean(input).catch((error: unknown) => error)) as { cause: { cause: Error } };
    expect(failure.cause.cause.message).toMatch(message);
  });
});

import { afterAll, afterEach, beforeAll, beforeEach, expect, jest, test } from '@jest/globals';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { setTimeout as sleep } from 'node:timers/promises';
import { listCandidates, startCandidate } from '../../host/deployment/candidates.ts';
import { readHistory } from '../../host/deployment/history.ts';
import { findDeployment, readDeployment } from '../../host/deployment/deployments.ts';
import type { HostSettings } from '../../host/settings.ts';
import { watchOrphans } from '../../workers/orphans.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { answeringRun, deploy, releaseOf, servedRuns, stopAllServed, swapInProcess } from '../support/served.ts';
import { startServer } from '../support/temporal.ts';
import { settingsOf } from '../support/settings.ts';

// What a terminated workflow leaves is for the worker to clear, since no activity is told of it.
jest.setTimeout(60_000);
let env: TestWorkflowEnvironment;
let settings: HostSettings;
let stopWatching: () => void;

beforeAll(async () => {
  env = await startServer();
});
afterAll(async () => env.teardown());
beforeEach(() => {
  settings = settingsOf(newFolder());
  stopWatching = () => {};
});
afterEach(async () => {
  stopWatching();
  await stopAllServed(settings.home);
});

test('a candidate whose run was terminated is stopped, and the champion that made room for it serves again', async () => {
  const { home } = settings;
  const { api } = await deploy(releaseOf(home, 'one'));
  const two = releaseOf(home, 'two');
  const options = { signal: new AbortController().signal, report: () => {}, placement: 'in-place' as const };
  await startCandidate(two, two.place, options);
  await startAndTerminate('two');
  watch();
  await until(async () => (await listCandidates(home)).length === 0);
  expect(servedRuns(home, ['one', 'two'])).toEqual(['one']);
  expect(await answeringRun(api.url)).toBe('one');
});

test('the candidate of a run that goes on is left alone', async () => {
  const { home } = settings;
  const two = releaseOf(home, 'going-on');
  const options = { signal: new AbortController().signal, report: () => {}, placement: 'auto' as const };
  await startCandidate(two, two.place, options);
  const handle = await start('going-on');
  watch();
  await sleep(12_000);
  expect(servedRuns(home, ['going-on'])).toEqual(['going-on']);
  await handle.terminate();
});

test('a swap whose run was terminated while the new champion was watched is undone', async () => {
  const { home } = settings;
  await deploy(releaseOf(home, 'one'));
  const swapped = async () => (await readDeployment(home, 'cards'))?.champion.runName === 'watched';
  await swapInProcess(releaseOf(home, 'watched'), { bakeSeconds: 60 }, swapped);
  await startAndTerminate('watched');
  watch();
  await until(async () => (await findDeployment(home, 'cards'))?.champion.runName === 'one');
  await until(async () => servedRuns(home, ['one', 'watched']).join() === 'one');
  expect((await readHistory(home, 'cards')).at(-1)).toMatchObject({ event: 'rolledBack', serves: 'one' });
});

function watch(): void {
  stopWatching = watchOrphans(settings, env.nativeConnection, 'default');
}

async function start(workflowId: string) {
  return env.client.workflow.start('fineTune', { workflowId, taskQueue: TASK_QUEUE, args: [{ config: 'demo' }] });
}

async function startAndTerminate(workflowId: string): Promise<void> {
  await (await start(workflowId)).terminate();
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await condition()); tries++) {
    if (tries > 400) throw new Error('waited 40 s in vain');
    await sleep(100);
  }
}

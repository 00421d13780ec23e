import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createActivities } from '../../activities/index.ts';
import { loadConfig } from '../../configs/load.ts';
import { checkout } from '../../host/checkout.ts';
import { freePort } from '../../host/ports.ts';
import { isAlive } from '../../host/process-table.ts';
import { nodeDirectory, runDirectory } from '../../host/run-directory.ts';
import { loadOptions, type HostSettings } from '../../host/settings.ts';
import { readJson } from '../../host/state-file.ts';
import { readEvents } from '../../host/training-events.ts';
import { findTrainer, lastTrainer } from '../../host/trainer-process.ts';
import type { FineTuneResult } from '../../workflows/fine-tune.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import { startServer, withWorkers } from '../support/temporal.ts';

// Two workers as two hosts, whose homes share their runs, train one model together with the real LLaMA-Factory.
jest.setTimeout(400_000);

const STEPS = 24;

let env: TestWorkflowEnvironment;
let root: string;
beforeAll(async () => {
  env = await startServer();
  root = mkdtempSync(join(tmpdir(), 'temper-hosts-'));
  for (const folder of ['runs', 'a', 'b']) mkdirSync(join(root, folder));
  for (const host of ['a', 'b']) symlinkSync(join(root, 'runs'), join(root, host, 'runs'));
});
afterAll(async () => {
  await env.teardown();
  rmSync(root, { recursive: true, force: true });
});

function settingsOf(hostName: 'a' | 'b'): HostSettings {
  const home = join(root, hostName);
  return {
    ...{ home, hostName, gpuSlots: 1, configsFolder: join(checkout, 'configs'), modelsRoot: join(home, 'models') },
    dataRoots: [checkout, root],
  };
}

test('a training of two hosts goes on from its checkpoint when the trainer of one is killed, and ends on both', async () => {
  const set = {
    ...{ 'plan.hosts': ['a', 'b'], 'plan.rendezvous': `127.0.0.1:${await freePort()}` },
    ...{ 'train.max_steps': STEPS, 'train.save_steps': 2, 'deploy.enabled': false, 'evaluate.enabled': false },
  };
  expect(loadConfig('demo', loadOptions(settingsOf('a')), set).plan.hosts).toEqual(['a', 'b']);
  const [leader, other] = [
    runDirectory(join(root, 'a'), 'both'),
    nodeDirectory(runDirectory(join(root, 'b'), 'both'), 1),
  ];
  const result = await withWorkers(
    env,
    createActivities(settingsOf('a')),
    () =>
      withWorkers(
        env,
        createActivities(settingsOf('b')),
        async () => {
          const handle = await env.client.workflow.start('fineTune', {
            ...{ taskQueue: TASK_QUEUE, workflowId: 'both', args: [{ config: 'demo', set, host: 'a' }] },
          });
          const done = handle.result() as Promise<FineTuneResult>;
          let ended = false;
          done.catch(() => {}).finally(() => (ended = true));
          while (!ended && (await lastCheckpoint(leader.events)) < 4) await sleep(50);
          const victim = await findTrainer(other);
          if (victim !== undefined) process.kill(victim.pid, 'SIGKILL');
          return done;
        },
        'b',
      ),
    'a',
  );
  expect(result.outcome).toBe('finished');
  const events = await readEvents(leader.events);
  const starts = events.filter((event) => event.type === 'started');
  expect(starts.length).toBeGreaterThanOrEqual(2);
  expect(starts.at(-1)?.resumedAtStep).toBeGreaterThanOrEqual(4);
  expect(events.filter((event) => event.type === 'step').at(-1)).toMatchObject({ step: STEPS, maxSteps: STEPS });
  const checkpoint = join(leader.trainOutput, `checkpoint-${STEPS}/temper-checkpoint.json`);
  expect(await readJson(checkpoint)).toMatchObject({ worldSize: 2 });
  for (const run of [leader, other]) expect(isAlive((await lastTrainer(run))!)).toBe(false);
  expect(readFileSync(other.trainerLog, 'utf8')).toMatch(/exit code 0\n$/);
});

async function lastCheckpoint(events: string): Promise<number> {
  return (await readEvents(events)).reduce((last, event) => (event.type === 'checkpoint' ? event.atStep : last), 0);
}

import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { Client, Connection, type ScheduleHandle } from '@temporalio/client';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse, stringify } from 'yaml';
import { createActivities, type Activities } from '../../activities/index.ts';
import type { Manifest } from '../../activities/record-run.ts';
import { startEmbeddedServer, stopEmbeddedServer, type EmbeddedServer } from '../../cli/embedded-server.ts';
import { checkout } from '../../host/checkout.ts';
import { freePort } from '../../host/ports.ts';
import { runDirectory } from '../../host/run-directory.ts';
import type { HostSettings } from '../../host/settings.ts';
import { readJson } from '../../host/state-file.ts';
import { runProgram } from '../../host/subprocess.ts';
import { quickActivities } from '../support/activities.ts';
import { quietRuntime, withWorkers } from '../support/temporal.ts';
import { settingsOf } from '../support/settings.ts';

// Schedules made by `temper schedule` that fire every few seconds on a real server; rows are really read, trainings are quick.
jest.setTimeout(300_000);

const everySeconds = (seconds: number) => `*/${seconds} * * * * * *`;

let home: string;
let server: EmbeddedServer;
let ports: [number, number];
let env: TestWorkflowEnvironment;
let client: Client;
let settings: HostSettings;

beforeAll(async () => {
  quietRuntime();
  home = mkdtempSync(join(tmpdir(), 'temper-schedule-'));
  settings = settingsOf(home, {
    ...{ configsFolder: join(home, 'configs'), modelsRoot: join(home, 'models'), dataRoots: [home, checkout] },
    isIndexed: true,
  });
  mkdirSync(settings.configsFolder);
  cpSync(join(checkout, 'demo/cards/images'), join(home, 'cards/images'), { recursive: true });
  writeRows(20);
  const demo = parse(readFileSync(join(checkout, 'configs/demo.yaml'), 'utf8')) as { train: object };
  const train = { ...demo.train, dataset_dir: join(home, 'cards') };
  const config = { ...demo, train, deploy: { enabled: false }, evaluate: { enabled: false } };
  writeFileSync(join(settings.configsFolder, 'cards.yaml'), stringify(config));
  ports = [await freePort(), await freePort()];
  server = await startEmbeddedServer(home, ...ports);
  env = await TestWorkflowEnvironment.createFromExistingServer({ address: server.address });
  client = new Client({ connection: await Connection.connect({ address: server.address }) });
});
afterAll(async () => {
  await client.connection.close();
  await env.teardown();
  await stopEmbeddedServer(server);
  rmSync(home, { recursive: true, force: true });
});

test('trains once, ends as unchanged while rows and config are the same, and trains again on new rows', async () => {
  const schedule = await makeSchedule('nightly', 10);
  await withWorkers(env, realButForTraining(), async () => {
    expect(await outcomesOf('nightly', 3)).toEqual(['finished', 'unchanged', 'unchanged']);
    writeRows(22);
    expect((await outcomesOf('nightly', 5)).slice(3)).toEqual(['finished', 'unchanged']);
    await schedule.delete();
  });
  const newest = (await ended('nightly')).at(-1)?.workflowId ?? '';
  const why = (await client.workflow.getHandle(newest).result()) as { why: string };
  expect(why.why).toMatch(/^rows and config are those of run nightly-.*, which was finished$/);
  expect((await readJson<Manifest>(runDirectory(home, newest).manifest))?.outcome).toBe('unchanged');
  const unchanged = client.workflow.count("TemperOutcome = 'unchanged' AND TemperStage = 'validateDataset'");
  expect((await unchanged).count).toBeGreaterThanOrEqual(3);
});

test('with minNewRows a few new rows count as unchanged, and the same schedule is changed by a second command', async () => {
  writeRows(30);
  const schedule = await makeSchedule('weekly', 7);
  const again = await temper('schedule', 'cards', '--id', 'weekly', '--cron', everySeconds(7), '--min-new-rows', '3');
  expect(again.stdout).toContain('Schedule weekly is changed.');
  await withWorkers(env, realButForTraining(), async () => {
    expect(await outcomesOf('weekly', 1)).toEqual(['finished']); // since the last judged run of this config had 22 rows
    writeRows(32);
    expect(await outcomesOf('weekly', 2)).toEqual(['finished', 'unchanged']);
    writeRows(33);
    expect(await outcomesOf('weekly', 3)).toEqual(['finished', 'unchanged', 'finished']);
    await schedule.delete();
  });
  const [, second] = await ended('weekly');
  expect(await client.workflow.getHandle(second?.workflowId ?? '').result()).toMatchObject({
    why: expect.stringMatching(/^2 rows are new since run weekly-.*, which was finished; minNewRows is 3$/),
  });
});

test('skips what falls into a run that goes on', async () => {
  const schedule = await makeSchedule('slow', 3, '--always');
  const trained = await quickActivities([]).trainModel(undefined as never);
  let trainings = 0;
  let atOnce = 0;
  const trainModel = async () => {
    trainings += 1;
    atOnce = Math.max(atOnce, trainings);
    await sleep(8_000);
    trainings -= 1;
    return trained;
  };
  await withWorkers(env, quickActivities([], { trainModel }), async () => {
    await outcomesOf('slow', 1);
    const { info } = await schedule.describe();
    await schedule.delete();
    expect([atOnce, info.numActionsSkippedOverlap >= 1]).toEqual([1, true]);
    const running = "TemporalScheduledById = 'slow' AND ExecutionStatus = 'Running'";
    await until(async () => (await client.workflow.count(running)).count === 0);
  });
});

test('makes up after an outage of the server for the runs that fell into it, and not for those of a pause', async () => {
  const schedule = await makeSchedule('steady', 5, '--always', '--overlap', 'buffer-one', '--catch-up', '1h');
  await withWorkers(env, quickActivities([]), async () => {
    await ended('steady', 1);
    const from = Date.now();
    await stopEmbeddedServer(server);
    await sleep(11_000);
    const to = Date.now();
    server = await startEmbeddedServer(home, ...ports);
    const firedWithin = async (begin: number, end: number) =>
      (await ended('steady')).filter(({ workflowId }) => {
        const nominal = Date.parse(workflowId.slice('steady-'.length));
        return nominal > begin && nominal < end;
      }).length;
    await until(async () => (await firedWithin(from, to)) >= 2);

    await schedule.pause('the GPU is needed elsewhere');
    const paused = Date.now();
    await sleep(11_000);
    const unpaused = Date.now();
    const before = (await ended('steady')).length;
    await schedule.unpause();
    await until(async () => (await ended('steady')).length > before);
    expect(await firedWithin(paused + 1000, unpaused - 1000)).toBe(0);
    await schedule.delete();
  });
});

test.each<[string, string[], RegExp]>([
  ['an unknown config', ['crads', '--cron', '@daily'], /crads.*cards/s],
  ['a cron that is none', ['cards', '--cron', 'now and then'], /The server refused the schedule cards: .*[Cc]ron/],
  ['a time that is none', ['cards', '--cron', '@daily', '--catch-up', 'soon'], /--catch-up soon: takes a time such as/],
  [
    'an overlap that is none',
    ['cards', '--cron', '@daily', '--overlap', 'kill'],
    /--overlap kill: takes skip or buffer/,
  ],
  ['no rows', ['cards', '--cron', '@daily', '--min-new-rows', '0'], /--min-new-rows 0: takes a whole number from 1/],
  ['a start that is none', ['cards', '--cron', '@daily', '--continue-from', 'it'], /--continue-from it: takes base or/],
])('%s is refused in one sentence, and no schedule is made', async (_, args, message) => {
  const { exitCode, stderr } = await runTemper('schedule', ...args);
  expect(exitCode).toBe(1);
  expect(stderr).toMatch(message);
  expect(stderr.trim().split('\n').length).toBeLessThan(6);
  await expect(client.schedule.getHandle('cards').describe()).rejects.toThrow();
});

/** Configs, rows, what has changed and the records are the host's own; the rest is quick. */
function realButForTraining(): Activities {
  const { loadConfig, validateDataset, detectChange, recordRun } = createActivities(settings);
  return quickActivities([], { loadConfig, validateDataset, detectChange, recordRun });
}

function writeRows(count: number): void {
  const cards = JSON.parse(readFileSync(join(checkout, 'demo/cards/cards.json'), 'utf8')) as unknown[];
  writeFileSync(join(home, 'cards/cards.json'), JSON.stringify(cards.slice(0, count)));
  cpSync(join(checkout, 'demo/cards/dataset_info.json'), join(home, 'cards/dataset_info.json'));
}

async function makeSchedule(id: string, seconds: number, ...options: string[]): Promise<ScheduleHandle> {
  const { stdout } = await temper('schedule', 'cards', '--id', id, '--cron', everySeconds(seconds), ...options);
  expect(stdout).toContain(`Schedule ${id} is made.`);
  return client.schedule.getHandle(id);
}

async function temper(...args: string[]) {
  const done = await runTemper(...args);
  if (done.exitCode !== 0) throw new Error(done.stderr);
  return done;
}

async function runTemper(...args: string[]) {
  const variables = { TEMPER_HOME: home, TEMPER_CONFIGS: settings.configsFolder, TEMPORAL_ADDRESS: server.address };
  return runProgram(process.execPath, [join(checkout, 'cli/temper.mjs'), ...args], {
    env: { ...variables, TEMPER_DATA_ROOTS: settings.dataRoots.join(':') },
  });
}

async function outcomesOf(schedule: string, count: number): Promise<string[]> {
  const runs = await ended(schedule, count);
  const results = runs.map(({ workflowId }) => client.workflow.getHandle(workflowId).result());
  return (await Promise.all(results)).map((result) => (result as { outcome: string }).outcome);
}

/** The schedule's runs that have ended, the oldest first, once there are so many. */
async function ended(schedule: string, count = 0): Promise<{ workflowId: string }[]> {
  return until(async () => {
    const query = `TemporalScheduledById = '${schedule}' AND ExecutionStatus != 'Running'`;
    const found: { workflowId: string }[] = [];
    for await (const { workflowId } of client.workflow.list({ query })) found.push({ workflowId });
    found.sort((a, b) => a.workflowId.localeCompare(b.workflowId));
    return found.length >= count && found;
  });
}

/** What `look` finds, once it finds something; a server that is away is waited for. */
async function until<T>(look: () => Promise<T | false>): Promise<T> {
  const deadline = Date.now() + 90_000;
  let failure: unknown;
  while (Date.now() < deadline) {
    const found = await look().catch((error: unknown) => {
      failure = error;
      return false as const;
    });
    if (found !== false) return found;
    await sleep(300);
  }
  throw new Error('not within 90 s', { cause: failure });
}

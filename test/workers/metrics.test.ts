import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { execa, type ResultPromise } from 'execa';
import { appendFileSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { addToHistory, type DeploymentEvent } from '../../host/deployment/history.ts';
import { stopServer } from '../../host/deployment/model-server.ts';
import { causes } from '../../host/goodput/account.ts';
import { readGoodput } from '../../host/goodput/run-goodput.ts';
import { appendLine } from '../../host/json-lines.ts';
import { lastingFreePort } from '../../host/ports.ts';
import { identify } from '../../host/process-table.ts';
import { openRunDirectory, type RunDirectory } from '../../host/run-directory.ts';
import { writeJson } from '../../host/state-file.ts';
import { metricsAddress, sdkMetrics, serveMetrics } from '../../workers/metrics.ts';
import { readSettings } from '../../workers/settings.ts';
import { eventually, newFolder } from '../fixtures/trainers/stand-in.ts';
import { leaveTraining } from '../support/goodput-run.ts';
import { deploy, releaseOf, stopAllServed } from '../support/served.ts';
import { startServer } from '../support/temporal.ts';

jest.setTimeout(120_000);

let home: string;
let stop: () => void;
let port: number;

beforeEach(async () => {
  home = newFolder();
  port = (await lastingFreePort()) - 1;
  stop = await serve();
});

afterEach(() => stop());

async function serve(): Promise<() => void> {
  const settings = readSettings({ TEMPER_HOME: home, TEMPER_GPU_SLOTS: '2' });
  return serveMetrics(settings, { host: '127.0.0.1', sdkPort: port, temperPort: port + 1 });
}

/** The values as they are scraped, by name and labels. */
async function scrape(at = port + 1): Promise<Map<string, number>> {
  const response = await fetch(`http://127.0.0.1:${at}/metrics`);
  const text = await response.text();
  if (response.status !== 200) throw new Error(text);
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.split(' ').at(-1))]));
}

function labelsOf(values: Map<string, number>, metric: string): string[] {
  return [...values.keys()].filter((name) => name.startsWith(`${metric}{`));
}

describe('runs', () => {
  test('are counted by outcome', async () => {
    for (const [name, outcome] of Object.entries({ a: 'deployed', b: 'failed', c: 'deployed', d: 'rejected' }))
      await writeJson(openRunDirectory(home, name).manifest, { runName: name, outcome });
    const values = await scrape();
    expect([...values].filter(([name]) => name.startsWith('temper_runs_ended{'))).toEqual([
      ['temper_runs_ended{outcome="deployed"}', 2],
      ['temper_runs_ended{outcome="failed"}', 1],
      ['temper_runs_ended{outcome="rejected"}', 1],
    ]);
  });

  test('one that ends in another way the next time counts as that', async () => {
    const { manifest } = openRunDirectory(home, 'again');
    await writeJson(manifest, { outcome: 'failed' });
    await scrape();
    await writeJson(manifest, { outcome: 'finished' });
    expect(labelsOf(await scrape(), 'temper_runs_ended')).toEqual(['temper_runs_ended{outcome="finished"}']);
  });

  test('failed attempts are counted by stage and error; those of a dead worker too', async () => {
    const run = openRunDirectory(home, 'unlucky');
    attempt(run, { stage: 'trainModel', type: 'ended', how: 'failed', error: 'TrainerError' });
    attempt(run, { stage: 'trainModel', type: 'ended', how: 'failed', error: 'TrainerError' });
    attempt(run, { stage: 'mergeAdapter', type: 'ended', how: 'failed' });
    attempt(run, { stage: 'mergeAdapter', type: 'ended', how: 'lost' });
    attempt(run, { stage: 'mergeAdapter', type: 'ended', how: 'done' });
    attempt(run, { stage: 'deployModel', type: 'ended', how: 'cancelled' });
    const values = await scrape();
    expect(labelsOf(values, 'temper_stage_failures_total')).toHaveLength(3);
    expect(values.get('temper_stage_failures_total{stage="trainModel",error="TrainerError"}')).toBe(2);
    expect(values.get('temper_stage_failures_total{stage="mergeAdapter",error="other"}')).toBe(1);
    expect(values.get('temper_stage_failures_total{stage="mergeAdapter",error="WorkerDied"}')).toBe(1);
  });

  test('seconds by cause are those of the ledger, over all runs', async () => {
    const left = [await leaveTraining(home, 'one', 7), await leaveTraining(home, 'two', 8)];
    const goodputs = await Promise.all(left.map(({ run }) => readGoodput(run)));
    const values = await scrape();
    for (const cause of causes) {
      const sum = goodputs.reduce((total, goodput) => total + (goodput?.seconds[cause] ?? NaN), 0);
      expect(values.get(`temper_training_seconds{cause="${cause}"}`)).toBeCloseTo(sum, 6);
    }
  });

  test('one whose files are broken does not hide the others', async () => {
    writeFileSync(openRunDirectory(home, 'broken').manifest, 'not JSON');
    await writeJson(openRunDirectory(home, 'good').manifest, { outcome: 'deployed' });
    expect((await scrape()).get('temper_runs_ended{outcome="deployed"}')).toBe(1);
  });
});

describe('a training', () => {
  let run: RunDirectory;
  let trainer: ResultPromise;

  beforeEach(async () => {
    run = openRunDirectory(home, 'cards');
    mkdirSync(run.train, { recursive: true });
    trainer = execa('sleep', ['600'], { reject: false });
    const identity = identify(trainer.pid!)!;
    await writeJson(run.process, { ...identity, keeper: identity, argv: [], attempt: 1, owner: '', startedAt: '' });
  });

  afterEach(async () => {
    trainer.kill('SIGKILL');
    await trainer;
  });

  test('is shown as its last step was', async () => {
    step({ step: 1, loss: 3, time: 1000 });
    const before = await scrape();
    expect(before.get('temper_training_step{run="cards"}')).toBe(1);
    step({ step: 2, loss: 2.5, time: 1004, work: { tokens: 3000 }, memoryReservedBytes: 7e9 });
    const values = await scrape();
    expect(Object.fromEntries([...values].filter(([name]) => name.includes('run="cards"')))).toEqual({
      'temper_training_running{run="cards"}': 1,
      'temper_training_step{run="cards"}': 2,
      'temper_training_max_steps{run="cards"}': 100,
      'temper_training_step_seconds{run="cards"}': 4,
      'temper_training_loss{run="cards"}': 2.5,
      'temper_training_tokens_per_second{run="cards"}': 750,
      'temper_training_gpu_memory_bytes{run="cards"}': 7e9,
      'temper_training_progress_timestamp_seconds{run="cards"}': 1004,
    });
  });

  test('is shown as before after a restart of the worker', async () => {
    step({ step: 2, loss: 2.5, time: 1004 });
    const before = withoutDisk(await scrape());
    stop();
    stop = await serve();
    expect(withoutDisk(await scrape())).toEqual(before);
  });

  test('that began anew in the same folder is read from its beginning', async () => {
    step({ step: 50, loss: 1, time: 1000 });
    await scrape();
    writeFileSync(`${run.events}.new`, '');
    renameSync(`${run.events}.new`, run.events);
    step({ step: 1, loss: 3, time: 2000 });
    expect((await scrape()).get('temper_training_step{run="cards"}')).toBe(1);
  });

  test('between two trainers is shown while its attempt is under way, and no longer', async () => {
    await writeJson(run.process, { pid: 1, startTime: 1, bootId: 'before', keeper: { pid: 1, startTime: 1 } });
    step({ step: 2, loss: 2.5, time: 1004 });
    expect(labelsOf(await scrape(), 'temper_training_step')).toEqual([]);
    attempt(run, { stage: 'trainModel', type: 'began', scheduledAt: '2026-01-01T00:00:00.000Z' });
    const values = await scrape();
    expect(values.get('temper_training_running{run="cards"}')).toBe(0);
    expect(values.get('temper_training_progress_timestamp_seconds{run="cards"}')).toBe(1767225600);
    attempt(run, { stage: 'trainModel', type: 'ended', how: 'done' });
    expect(labelsOf(await scrape(), 'temper_training_step')).toEqual([]);
  });

  function step(told: { step: number; loss: number; time: number; work?: object; memoryReservedBytes?: number }): void {
    appendFileSync(run.events, `${JSON.stringify({ type: 'step', maxSteps: 100, secondsPerStep: 4, ...told })}\n`);
  }
});

describe('a deployment', () => {
  afterEach(() => stopAllServed(home));

  test('is up while it serves, and then down', async () => {
    const { champion, deployedAt } = await deploy(releaseOf(home, 'first'));
    const values = await scrape();
    expect(values.get('temper_deployment_up{deployment="cards"}')).toBe(1);
    expect(values.get('temper_deployment_info{deployment="cards",run="first"}')).toBe(1);
    expect(values.get('temper_deployment_timestamp_seconds{deployment="cards"}')).toBe(Date.parse(deployedAt) / 1000);
    expect(values.get('temper_deployment_events_total{deployment="cards",event="deployed"}')).toBe(1);
    await stopServer(champion.server!);
    expect((await scrape()).get('temper_deployment_up{deployment="cards"}')).toBe(0);
  });

  test('that was taken out of service has a past only', async () => {
    for (const [id, event] of Object.entries({
      a: 'deployed',
      b: 'rolledBack',
      c: 'rolledBack',
      d: 'removed',
    } as const))
      await addToHistory(home, 'old', { id, event, time: '', serves: null } as unknown as DeploymentEvent);
    const values = await scrape();
    expect(values.get('temper_deployment_events_total{deployment="old",event="rolledBack"}')).toBe(2);
    expect(values.get('temper_deployment_events_total{deployment="old",event="rejected"}')).toBe(0);
    expect(labelsOf(values, 'temper_deployment_up')).toEqual([]);
  });
});

test('slots and disk are those of the host', async () => {
  const own = identify(process.pid)!;
  const claim = { runName: 'a', stage: 'trainModel', priority: 1, owner: 'a', since: '', worker: own };
  const dead = { ...claim, owner: 'b', worker: { ...own, startTime: 1 }, lostAt: '2026-01-01T00:00:00.000Z' };
  await writeJson(join(home, 'gpu-slots.json'), { held: [claim, dead], waiting: [claim, claim] });
  const values = await scrape();
  expect(values.get('temper_gpu_slots')).toBe(2);
  expect(values.get('temper_gpu_slots_held')).toBe(1);
  expect(values.get('temper_gpu_slots_waiting')).toBe(2);
  const { stdout } = await execa('df', ['--output=avail,size', '--block-size=1', home]);
  const [free, size] = stdout.trim().split('\n').at(-1)!.trim().split(/\s+/).map(Number);
  expect(values.get('temper_home_size_bytes')).toBe(size);
  expect(Math.abs(values.get('temper_home_free_bytes')! - free!)).toBeLessThan(1e9);
});

test('each metric says what it is, in the form that Prometheus takes', async () => {
  const text = await (await fetch(`http://127.0.0.1:${port + 1}/metrics`)).text();
  const named = (word: string) => [...text.matchAll(new RegExp(`^# ${word} (\\S+) (.+)$`, 'gm'))];
  const types = new Map(named('TYPE').map(([, name, type]) => [name!, type!]));
  expect(named('HELP').map(([, name]) => name)).toEqual([...types.keys()]);
  expect(types.size).toBe(20);
  for (const [name, type] of types) {
    expect(name).toMatch(/^temper_[a-z_]+$/);
    expect([name, name.endsWith('_total')]).toEqual([name, type === 'counter']);
  }
});

test('a thousand runs that have ended are scraped within a second, once they have been read', async () => {
  for (let index = 0; index < 1000; index++) {
    const run = openRunDirectory(home, `run-${index}`);
    mkdirSync(run.train);
    writeFileSync(run.manifest, '{"outcome": "deployed"}');
    appendFileSync(run.events, '{"type": "started", "pid": 1, "time": 1, "resumedAtStep": 0}\n');
    attempt(run, { stage: 'trainModel', type: 'ended', how: 'done' });
  }
  expect((await scrape()).get('temper_runs_ended{outcome="deployed"}')).toBe(1000);
  const before = performance.now();
  await scrape();
  expect(performance.now() - before).toBeLessThan(1000);
});

describe('TEMPER_METRICS_ADDRESS', () => {
  test('unset or empty: no metrics', async () => {
    for (const env of [{}, { TEMPER_METRICS_ADDRESS: '' }]) expect(metricsAddress(env)).toBeUndefined();
    expect(sdkMetrics(undefined)).toEqual({});
    (await serveMetrics(readSettings({}), undefined))();
  });

  test('names the port of the SDK; the next one is Temper’s', () => {
    const address = metricsAddress({ TEMPER_METRICS_ADDRESS: '[::1]:9464' });
    expect(address).toEqual({ host: '[::1]', sdkPort: 9464, temperPort: 9465 });
    expect(sdkMetrics(address)).toMatchObject({ metrics: { prometheus: { bindAddress: '[::1]:9464' } } });
  });

  test.each(['9464', ':9464', 'localhost:9464', '127.0.0.1', '127.0.0.1:0', '127.0.0.1:65535', '1.2.3:80'])(
    '%j is refused by name',
    (value) => {
      const read = () => metricsAddress({ TEMPER_METRICS_ADDRESS: value });
      expect(read).toThrow(expect.objectContaining({ name: 'ConfigError' }));
      expect(read).toThrow(`TEMPER_METRICS_ADDRESS is ${JSON.stringify(value)}`);
    },
  );

  test.each([
    ['SDK', 0],
    ['Temper', 1],
  ])('a port of the %s that is taken is named', async (_, offset) => {
    const taken = createServer().listen(0, '127.0.0.1');
    await eventually(() => taken.listening);
    const sdkPort = (taken.address() as AddressInfo).port - offset;
    const serving = serveMetrics(readSettings({ TEMPER_HOME: home }), {
      ...{ host: '127.0.0.1', sdkPort, temperPort: sdkPort + 1 },
    });
    await expect(serving).rejects.toThrow(`Metrics can't be served on 127.0.0.1:${sdkPort + offset} `);
    taken.close();
  });
});

test('a worker serves its own metrics and the SDK’s', async () => {
  const server = await startServer();
  const sdkPort = (await lastingFreePort()) - 1;
  const worker = execa(process.execPath, [join(checkout, 'cli/temper.mjs'), 'worker'], {
    env: {
      ...{ TEMPORAL_ADDRESS: server.address, TEMPORAL_NAMESPACE: 'default', TEMPER_HOME: home },
      TEMPER_METRICS_ADDRESS: `127.0.0.1:${sdkPort}`,
    },
    reject: false,
  });
  try {
    const polls = async () => {
      const values = await scrape(sdkPort).catch(() => new Map<string, number>());
      return labelsOf(values, 'temporal_num_pollers').some((name) => name.includes('activity_task'));
    };
    await eventually(polls, 60_000);
    expect((await scrape(sdkPort + 1)).get('temper_gpu_slots')).toBe(1);
  } finally {
    worker.kill('SIGTERM');
    await worker;
    await server.teardown();
  }
});

function attempt(run: RunDirectory, told: Record<string, unknown>): void {
  appendLine(run.stageAttempts, { executionId: 'one', attempt: 1, at: '2026-01-01T00:00:00.000Z', ...told });
}

/** The disk's free bytes change from one moment to the next. */
function withoutDisk(values: Map<string, number>): [string, number][] {
  return [...values].filter(([name]) => !name.startsWith('temper_home_'));
}

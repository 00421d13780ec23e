/**
 * Brings docker-compose.yml up on the local Docker engine under a project name, ports and a volume of its own, and
 * removes them afterwards. Not part of `npm test`: run it with `npm run test:docker`.
 */
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { execa } from 'execa';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'yaml';
import { runDirectory } from '../../host/run-directory.ts';
import { lossCurve, readEvents } from '../../host/training-events.ts';
import { ComposeStack, eventually, root, type ComposeService, type HistoryEvent } from '../support/compose.ts';

const workflowId = 'survivor';

jest.setTimeout(300_000);

let stack: ComposeStack;

beforeAll(async () => {
  stack = await ComposeStack.prepare('temper-compose-test');
  Object.assign(stack.environment, { TEMPER_RETENTION: '30d', TEMPORAL_NAMESPACE: 'compose-test' });
});

afterAll(() => stack.remove());

describe('docker-compose.yml', () => {
  test('refuses to start without a password and says where to set one', async () => {
    const { TEMPER_DATABASE_PASSWORD: _, ...withoutPassword } = stack.environment;
    const { exitCode, stderr } = await execa('docker', ['compose', 'up', '--no-start'], {
      cwd: root,
      env: withoutPassword,
      extendEnv: false,
      reject: false,
    });
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain('there is no default password for the database. Copy .env.example to .env');
  });

  test('pins every image, publishes on loopback only, and keeps data in a named volume', async () => {
    const services = await composeServices();
    for (const { image, volumes = [] } of Object.values(services)) {
      expect(image).toMatch(/:\d+\.\d+/);
      for (const { type, source } of volumes) expect([type, source]).not.toEqual(['volume', undefined]);
    }
    const published = Object.values(services).flatMap(({ ports = [] }) => ports);
    expect(published.map(({ target }) => target).sort()).toEqual([7233, 8080]);
    expect(new Set(published.map((port) => port.host_ip))).toEqual(new Set(['127.0.0.1']));
  });

  test('gives every service that stays up a health check and a restart policy', async () => {
    const lasting = Object.values(await composeServices()).filter(({ restart }) => restart !== 'no');
    expect(lasting).toHaveLength(3);
    for (const service of lasting) expect(service).toMatchObject({ restart: 'unless-stopped', healthcheck: {} });
  });
});

describe('the stack', () => {
  test('comes up with the namespace, its retention and the search attributes, usable at once', async () => {
    await compose('up', '--detach', '--wait');
    expect(await restartCounts()).toEqual({ postgres: 0, temporal: 0, ui: 0 });
    expect(await temporal('operator', 'cluster', 'health')).toMatch(/SERVING/);
    await expectNamespaceAndSearchAttributes();
    await temporal(
      ...['workflow', 'start', '--workflow-id', workflowId, '--type', 'fineTune', '--task-queue', 'nobody-polls'],
      ...['--input', '{"config":"demo"}', '--search-attribute', 'TemperStage="trainModel"'],
      ...['--search-attribute', 'TemperScore=0.5'],
    );
    await eventually('the run is found by its search attributes', async () => {
      const query = "TemperStage = 'trainModel' AND TemperScore > 0.4";
      expect(await temporal('workflow', 'list', '--query', query)).toContain(workflowId);
    });
  });

  test.each(['temporal', 'postgres'])('loses nothing when the %s container crashes', async (service) => {
    const before = await history();
    await crash(service);
    await eventually('a signal is taken', () => signal(`after-${service}-crash`));
    const after = await history();
    expect(after.slice(0, before.length)).toEqual(before);
    expect(after.at(-1)?.eventType).toBe('EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED');
  });

  test('a run trains on through crashes of the server and of the database, each step once, on one trainer', async () => {
    const home = await mkdtemp(join(tmpdir(), 'temper-compose-'));
    const env = { ...stack.environment, TEMPER_HOME: home };
    const worker = execa(process.execPath, [join(root, 'cli/temper.mjs'), 'worker'], { env, extendEnv: false });
    try {
      const input = JSON.stringify({ config: await shortDemo() });
      const start = ['workflow', 'start', '--workflow-id', 'trained', '--type', 'fineTune', '--task-queue', 'temper'];
      await temporal(...start, '--input', input);
      const run = runDirectory(home, 'trained');
      const steps = async () => lossCurve(await readEvents(run.events)).map(({ step }) => step);
      for (const service of ['temporal', 'postgres']) {
        const before = (await steps()).length;
        await eventually('it trains', async () => expect((await steps()).length).toBeGreaterThan(before + 3), 120_000);
        await crash(service);
      }
      const result = await eventually('it ends', () => temporal('workflow', 'result', '-w', 'trained'), 180_000);
      expect(result).toContain('"outcome":"finished"');
      expect(await steps()).toEqual(Array.from({ length: STEPS }, (_, index) => index + 1));
      expect((await readEvents(run.events)).filter(({ type }) => type === 'started')).toHaveLength(1);
    } finally {
      worker.kill('SIGTERM');
      await worker.catch(() => {});
      await rm(home, { recursive: true, force: true });
    }
  });

  test('is not changed by setting it up again', async () => {
    const before = await history();
    await compose('up', '--detach', '--wait');
    for (const service of ['schema', 'namespace']) {
      expect(await compose('run', '--rm', '--no-deps', service)).toMatch(/up to date|ready/);
    }
    expect(await history()).toEqual(before);
    await expectNamespaceAndSearchAttributes();
  });

  test('keeps its history when it is taken down and brought up again', async () => {
    const before = await history();
    await compose('down');
    await compose('up', '--detach', '--wait');
    expect(await history()).toEqual(before);
    await signal('after-down-and-up');
    await expectNamespaceAndSearchAttributes();
  });

  test('serves the web UI, and its buttons work', async () => {
    const ui = `http://127.0.0.1:${stack.environment.TEMPER_UI_PORT}`;
    const page = await fetch(ui);
    expect(page.status).toBe(200);
    const token = /_csrf=([^;]+)/.exec(page.headers.get('set-cookie') ?? '')?.[1] ?? '';
    expect(page.headers.get('set-cookie')).not.toMatch(/;\s*Secure/i);

    const run = `${ui}/api/v1/namespaces/compose-test/workflows/${workflowId}`;
    expect(await (await fetch(run)).text()).toContain('"fineTune"');
    const terminated = await fetch(`${run}/terminate`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-csrf-token': token, cookie: `_csrf=${token}` },
      body: JSON.stringify({ reason: 'asked for in the web UI' }),
    });
    expect(terminated.status).toBe(200);
    expect((await history()).at(-1)?.eventType).toBe('EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED');
  });
});

const STEPS = 150;

async function shortDemo(): Promise<object> {
  const demo = parse(await readFile(join(root, 'configs/demo.yaml'), 'utf8')) as { train: object };
  const train = { ...demo.train, max_steps: STEPS };
  return { ...demo, train, evaluate: { enabled: false }, deploy: { enabled: false } };
}

async function compose(...arguments_: string[]): Promise<string> {
  return stack.compose(...arguments_);
}

async function composeServices(): Promise<Record<string, ComposeService>> {
  const config = JSON.parse(await compose('config', '--format', 'json')) as {
    services: Record<string, ComposeService>;
  };
  return config.services;
}

async function temporal(...arguments_: string[]): Promise<string> {
  return stack.temporal(...arguments_);
}

async function signal(name: string): Promise<void> {
  await temporal('workflow', 'signal', '--workflow-id', workflowId, '--name', name, '--input', '{}');
}

async function history(): Promise<HistoryEvent[]> {
  return stack.history(workflowId);
}

async function expectNamespaceAndSearchAttributes(): Promise<void> {
  const namespace = JSON.parse(await temporal('operator', 'namespace', 'describe', '--output', 'json')) as {
    config: { workflowExecutionRetentionTtl: string };
  };
  expect(namespace.config.workflowExecutionRetentionTtl).toBe(`${30 * 24 * 3600}s`);
  const listed = JSON.parse(await temporal('operator', 'search-attribute', 'list', '--output', 'json')) as {
    customAttributes: Record<string, string>;
  };
  expect(listed.customAttributes).toEqual({
    TemperStage: 'INDEXED_VALUE_TYPE_KEYWORD',
    TemperModel: 'INDEXED_VALUE_TYPE_KEYWORD',
    TemperOutcome: 'INDEXED_VALUE_TYPE_KEYWORD',
    TemperScore: 'INDEXED_VALUE_TYPE_DOUBLE',
  });
}

async function inspect(service: string, format: string): Promise<string> {
  const container = await compose('ps', '--all', '--quiet', service);
  return (await execa('docker', ['inspect', '--format', format, container])).stdout;
}

async function restartCounts(): Promise<Record<string, number>> {
  const services = ['postgres', 'temporal', 'ui'];
  const counts = await Promise.all(services.map((service) => inspect(service, '{{.RestartCount}}')));
  return Object.fromEntries(services.map((service, index) => [service, Number(counts[index])]));
}

/**
 * Kills a container's main process as a crash would. `docker kill` counts as a stop that somebody asked for, after
 * which no restart policy acts, and SIGKILL from inside does not reach process 1; so it comes from a container that
 * sees the host's processes.
 */
async function crash(service: string): Promise<void> {
  const restarts = Number(await inspect(service, '{{.RestartCount}}'));
  const pid = await inspect(service, '{{.State.Pid}}');
  const { image } = (await composeServices()).postgres!;
  await execa('docker', ['run', '--rm', '--pid=host', '--entrypoint=sh', image, '-c', `kill -9 ${pid}`]);
  await eventually(`${service} is restarted`, async () => {
    expect(await inspect(service, '{{.RestartCount}} {{.State.Running}}')).toBe(`${restarts + 1} true`);
  });
}

/**
 * Brings docker-compose.yml up on the local Docker engine under a project name, ports and a volume of its own, and
 * removes them afterwards. Not part of `npm test`: run it with `npm run test:docker`.
 */
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { execa } from 'execa';
import { randomBytes } from 'node:crypto';
import { createServer, type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const cli = `${root}/trainer/.venv/bin/temporal`;
const project = 'temper-compose-test';
const workflowId = 'survivor';

jest.setTimeout(300_000);

interface ComposeService {
  image: string;
  restart?: string;
  healthcheck?: object;
  ports?: { host_ip?: string; target: number }[];
  volumes?: { type: string; source?: string }[];
}

interface HistoryEvent {
  eventId: string;
  eventType: string;
}

/** Neither the user's .env nor their Temporal settings may reach the stack under test. */
const environment: Record<string, string | undefined> = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^(TEMPORAL|TEMPER|COMPOSE)_/.test(name)),
);

beforeAll(async () => {
  await execa('docker', ['compose', 'version']).catch((cause: unknown) => {
    throw new Error('npm run test:docker needs a Docker engine with the compose plugin', { cause });
  });
  const [serverPort, uiPort] = await freePorts(2);
  Object.assign(environment, {
    TEMPER_DATABASE_PASSWORD: randomBytes(24).toString('hex'),
    TEMPER_SERVER_PORT: String(serverPort),
    TEMPER_UI_PORT: String(uiPort),
    TEMPER_RETENTION: '30d',
    TEMPORAL_NAMESPACE: 'compose-test',
    TEMPORAL_ADDRESS: `127.0.0.1:${serverPort}`,
  });
  await compose('down', '--volumes', '--remove-orphans');
});

afterAll(async () => {
  await compose('down', '--volumes', '--remove-orphans');
});

describe('docker-compose.yml', () => {
  test('refuses to start without a password and says where to set one', async () => {
    const { TEMPER_DATABASE_PASSWORD: _, ...withoutPassword } = environment;
    const { exitCode, stderr } = await execa('docker', [...composeArguments, 'up', '--no-start'], {
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
    const ui = `http://127.0.0.1:${environment.TEMPER_UI_PORT}`;
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

const composeArguments = ['compose', '--env-file', '/dev/null', '--project-name', project];

async function compose(...arguments_: string[]): Promise<string> {
  const { stdout } = await execa('docker', [...composeArguments, ...arguments_], {
    cwd: root,
    env: environment,
    extendEnv: false,
  });
  return stdout;
}

async function composeServices(): Promise<Record<string, ComposeService>> {
  const config = JSON.parse(await compose('config', '--format', 'json')) as {
    services: Record<string, ComposeService>;
  };
  return config.services;
}

async function temporal(...arguments_: string[]): Promise<string> {
  const options = { env: environment, extendEnv: false, timeout: 20_000 };
  const { stdout } = await execa(cli, ['--disable-config-file', ...arguments_], options);
  return stdout;
}

async function signal(name: string): Promise<void> {
  await temporal('workflow', 'signal', '--workflow-id', workflowId, '--name', name, '--input', '{}');
}

async function history(): Promise<HistoryEvent[]> {
  const shown = await temporal('workflow', 'show', '--workflow-id', workflowId, '--output', 'json');
  return (JSON.parse(shown) as { events: HistoryEvent[] }).events;
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

async function eventually(what: string, assertion: () => Promise<void>, timeoutMs = 60_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    try {
      return await assertion();
    } catch (cause) {
      if (Date.now() > end) throw new Error(`not within ${timeoutMs / 1000} s: ${what}`, { cause });
      await sleep(300);
    }
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/**
 * Has the Prometheus of docker-compose.yml measure a real server and a real worker. Not part of `npm test`: run it with
 * `npm run test:docker`.
 */
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { execa, type ResultPromise } from 'execa';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { lastingFreePort } from '../../host/ports.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { writeJson } from '../../host/state-file.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { ComposeStack, eventually, root, type ComposeService } from '../support/compose.ts';
import { alertRules, dashboardPanels, metricsIn } from '../support/monitoring.ts';

jest.setTimeout(300_000);

interface Sample {
  metric: Record<string, string>;
  value: [number, string];
}

const home = newFolder();
let stack: ComposeStack;
let worker: ResultPromise;

beforeAll(async () => {
  stack = await ComposeStack.prepare('temper-monitoring-test');
});

afterAll(async () => {
  worker?.kill('SIGTERM');
  await worker;
  await stack.remove();
});

describe('the profile monitoring', () => {
  test('is what it takes to start Prometheus and Grafana', async () => {
    const without = await services();
    const added = Object.keys(await services('monitoring')).filter((name) => !(name in without));
    expect(added.sort()).toEqual(['grafana', 'grafana-password', 'prometheus']);
  });

  test('pins versions, publishes on loopback only, keeps data in named volumes and looks after what stays up', async () => {
    const { prometheus, grafana } = await services('monitoring');
    for (const service of [prometheus, grafana]) {
      expect(service?.image).toMatch(/:v?\d+\.\d+\.\d+$/);
      expect(service).toMatchObject({ restart: 'unless-stopped', healthcheck: {} });
      expect(service?.ports?.map((port) => port.host_ip)).toEqual(['127.0.0.1']);
      const volumes = service?.volumes?.filter(({ type }) => type === 'volume') ?? [];
      expect(volumes.map(({ source }) => typeof source)).toEqual(['string']);
    }
  });

  test('wants a password for Grafana', async () => {
    const run = ['--profile', 'monitoring', 'run', '--rm', '--no-deps', 'grafana-password'];
    await expect(stack.compose(...run)).rejects.toThrow('There is no default password for Grafana.');
    stack.environment.TEMPER_GRAFANA_PASSWORD = 'something';
    await stack.compose(...run);
  });
});

describe('Prometheus', () => {
  beforeAll(async () => {
    const sdkPort = (await lastingFreePort()) - 1;
    useOwnPorts(sdkPort);
    await writeJson(openRunDirectory(home, 'earlier').manifest, { outcome: 'deployed' });
    await stack.compose('up', '--detach', '--wait');
    await stack.compose('--profile', 'monitoring', 'up', '--detach', '--wait', 'prometheus');
    worker = execa(process.execPath, [join(root, 'cli/temper.mjs'), 'worker'], {
      env: { ...stack.environment, TEMPER_HOME: home, TEMPER_METRICS_ADDRESS: `0.0.0.0:${sdkPort}` },
      ...{ extendEnv: false, reject: false },
    });
  });

  test('reaches the server, and both addresses of the worker through the host’s gateway', async () => {
    await eventually('all are up', async () => {
      const up = await query('up');
      expect(Object.fromEntries(up.map(({ metric, value }) => [metric.job, value[1]]))).toEqual({
        ...{ 'temporal-server': '1', 'temporal-worker': '1', temper: '1' },
      });
    });
    const [ended] = await query('temper_runs_ended');
    expect([ended?.metric.outcome, ended?.value[1]]).toEqual(['deployed', '1']);
  });

  test('understands every expression of the dashboard, and has what they ask for from server and worker', async () => {
    await stack.temporal('workflow', 'start', ...['--workflow-id', 'no-config', '--type', 'fineTune'], ...input);
    await eventually('the run has ended', async () => {
      expect((await stack.history('no-config')).at(-1)?.eventType).toBe('EVENT_TYPE_WORKFLOW_EXECUTION_FAILED');
    });
    const expressions = (await dashboardPanels()).flatMap((panel) => panel.expressions);
    expect(expressions.length).toBeGreaterThan(25);
    for (const expression of expressions) await query(expression);
    await eventually('the metrics are there', async () => {
      const names = new Set(await api<string[]>('label/__name__/values'));
      const asked = expressions.flatMap(metricsIn).filter((name) => !name.startsWith('temper_') && name !== ofFailures);
      expect(asked.filter((name) => !names.has(name))).toEqual([]);
    });
  });

  test('evaluates the alert rules, none of which fires', async () => {
    await eventually('all have been evaluated', async () => {
      const { groups } = await api<{ groups: { rules: { name: string; health: string; state: string }[] }[] }>('rules');
      const rules = groups.flatMap((group) => group.rules);
      expect(rules.map(({ name, health, state }) => [name, health, state])).toEqual(
        (await alertRules()).map(({ alert }) => [alert, 'ok', 'inactive']),
      );
    });
  });

  test('notices that the worker is gone', async () => {
    worker.kill('SIGKILL');
    await worker;
    await eventually('the alert is pending', async () => {
      const { alerts } = await api<{ alerts: { labels: { alertname: string }; state: string }[] }>('alerts');
      expect(alerts.map(({ labels, state }) => [labels.alertname, state])).toEqual([
        ['TemperWorkerNotPolling', 'pending'],
      ]);
    });
  });
});

test('the alert rules keep to their unit tests', async () => {
  const { prometheus } = await services('monitoring');
  const mounts = [`${root}/deploy/prometheus:/etc/prometheus:ro`, `${root}/test/deploy:/tests:ro`];
  const promtool = ['run', '--rm', ...mounts.flatMap((mount) => ['--volume', mount]), '--entrypoint', 'promtool'];
  const check = [...promtool, prometheus!.image, 'check', 'config', '/etc/prometheus/prometheus.yml'];
  expect((await execa('docker', check)).stdout).toContain('is valid prometheus config file syntax');
  await execa('docker', [...promtool, prometheus!.image, 'test', 'rules', '/tests/alerts.test.yml']);
});

/** The SDK has it only once a request has failed. */
const ofFailures = 'temporal_request_failure_total';

const input = ['--task-queue', 'temper', '--input', '{"config":"no-such-config"}'];

/** The configuration as it is, but for the worker's ports, and measuring each second. */
function useOwnPorts(sdkPort: number): void {
  const folder = newFolder();
  const config = readFileSync(join(root, 'deploy/prometheus/prometheus.yml'), 'utf8')
    .replaceAll(':9464', `:${sdkPort}`)
    .replaceAll(':9465', `:${sdkPort + 1}`)
    .replaceAll('15s', '1s');
  writeFileSync(join(folder, 'prometheus.yml'), config, { mode: 0o644 });
  const mount = `${join(folder, 'prometheus.yml')}:/etc/prometheus/prometheus.yml:ro`;
  writeFileSync(join(folder, 'compose.yml'), JSON.stringify({ services: { prometheus: { volumes: [mount] } } }));
  stack.environment.COMPOSE_FILE = `${join(root, 'docker-compose.yml')}:${join(folder, 'compose.yml')}`;
}

async function services(profile?: string): Promise<Record<string, ComposeService>> {
  const options = profile === undefined ? [] : ['--profile', profile];
  const config = await stack.compose(...options, 'config', '--format', 'json');
  return (JSON.parse(config) as { services: Record<string, ComposeService> }).services;
}

async function query(expression: string): Promise<Sample[]> {
  const instant = expression.replaceAll('$__rate_interval', '1m').replaceAll('$__range', '6h');
  return (await api<{ result: Sample[] }>(`query?query=${encodeURIComponent(instant)}`)).result;
}

async function api<T>(path: string): Promise<T> {
  const response = await fetch(`http://127.0.0.1:${stack.environment.TEMPER_PROMETHEUS_PORT}/api/v1/${path}`);
  const answer = (await response.json()) as { status: string; error?: string; data: T };
  if (answer.status !== 'success') throw new Error(`${path}: ${answer.error}`);
  return answer.data;
}

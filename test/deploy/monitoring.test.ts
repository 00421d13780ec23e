import { expect, test } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'yaml';
import { checkout } from '../../host/checkout.ts';
import { Metrics } from '../../host/metrics/metrics.ts';
import { metricsAddress } from '../../workers/metrics.ts';
import { alertRules, dashboardPanels, metricsIn } from '../support/monitoring.ts';

const ofTemper = new Set(
  new Metrics({ home: '/none', gpuSlots: 1 }).registry.getMetricsAsArray().map(({ name }) => name),
);

test('dashboard and alerts ask for metrics that the worker has', async () => {
  const expressions = [
    ...(await dashboardPanels()).flatMap(({ expressions }) => expressions),
    ...(await alertRules()).map(({ expr }) => expr),
  ];
  const asked = new Set(expressions.flatMap(metricsIn).filter((name) => name.startsWith('temper_')));
  expect([...asked].filter((name) => !ofTemper.has(name))).toEqual([]);
  expect(asked.size).toBeGreaterThan(15);
});

test('the dashboard shows every metric of the worker', async () => {
  const shown = new Set((await dashboardPanels()).flatMap(({ expressions }) => expressions.flatMap(metricsIn)));
  expect([...ofTemper].filter((name) => !shown.has(name))).toEqual(['temper_home_size_bytes']);
});

test('the panels lie beside each other, and ask the provisioned Prometheus', async () => {
  const provisioned = parse(await read('deploy/grafana/provisioning/datasources/prometheus.yaml')) as {
    datasources: { uid: string; url: string }[];
  };
  const [source] = provisioned.datasources;
  expect(source?.url).toBe('http://prometheus:9090');
  const taken = new Map<string, string>();
  for (const { title, datasource, place } of await dashboardPanels()) {
    if (datasource !== undefined) expect(datasource).toBe(source?.uid);
    for (let x = place.x; x < place.x + place.w; x++)
      for (let y = place.y; y < place.y + place.h; y++) {
        expect([title, taken.get(`${x} ${y}`), x < 24]).toEqual([title, undefined, true]);
        taken.set(`${x} ${y}`, title);
      }
  }
});

test('Prometheus looks for the worker where the examples of its settings put it', async () => {
  const config = parse(await read('deploy/prometheus/prometheus.yml')) as {
    scrape_configs: { job_name: string; static_configs: { targets: string[] }[] }[];
  };
  const targets = new Map(config.scrape_configs.map((job) => [job.job_name, job.static_configs[0]?.targets[0]]));
  const example = /^TEMPER_METRICS_ADDRESS=(.+)$/m.exec(await read('deploy/systemd/worker.env.example'))?.[1];
  const address = metricsAddress({ TEMPER_METRICS_ADDRESS: example });
  expect(targets.get('temporal-worker')).toBe(`host.docker.internal:${address?.sdkPort}`);
  expect(targets.get('temper')).toBe(`host.docker.internal:${address?.temperPort}`);
});

test('the runbook has a section for each alert', async () => {
  const runbook = await read('docs/runbook.md');
  const sections = [...runbook.matchAll(/^### (\w+)$/gm)].map(([, name]) => name);
  expect(sections).toEqual((await alertRules()).map(({ alert }) => alert));
});

async function read(path: string): Promise<string> {
  return readFile(join(checkout, path), 'utf8');
}

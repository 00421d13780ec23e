import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gunzipSync } from 'node:zlib';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { runProgram } from '../../host/subprocess.ts';

// `npm audit` itself, asking a registry of ours that answers as npm's does.
jest.setTimeout(120_000);

let registry: Server;
let asked: Record<string, string[]> = {};
let advisories: Record<string, object[]> = {};

beforeAll(async () => {
  registry = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks);
      const text = request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body;
      const isAudit = request.url?.endsWith('/advisories/bulk') === true;
      if (isAudit) asked = JSON.parse(text.toString()) as Record<string, string[]>;
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(isAudit ? advisories : packument(request.url?.slice(1) ?? '')));
    });
  }).listen(0, '127.0.0.1');
  await once(registry, 'listening');
});
afterAll(() => {
  registry.close();
});

/** What a registry tells of a package, with the one version that is locked. */
function packument(name: string): object {
  const version = asked[name]?.[0] ?? '1.0.0';
  return { name, 'dist-tags': { latest: version }, versions: { [version]: { name, version } } };
}

async function audit() {
  const { port } = registry.address() as AddressInfo;
  const env = { npm_config_registry: `http://127.0.0.1:${port}/`, npm_config_audit_level: 'high' };
  return runProgram(process.execPath, [join(checkout, 'scripts/audit.mjs'), 'npm'], { env });
}

// npm remembers an advisory by its id.
const advisory = (severity: string, id: number) => ({
  ...{ id, url: 'https://github.com/advisories/GHSA-aaaa-bbbb-cccc', title: 'Runs what it reads', severity },
  ...{ vulnerable_versions: '*', cwe: [], cvss: { score: 9, vectorString: null } },
});

test('a grave vulnerability of a locked package is found, by name and ID', async () => {
  advisories = { yaml: [advisory('critical', Date.now())] };
  const { exitCode, stdout } = await audit();
  expect(Object.keys(asked)).toContain('yaml');
  expect(stdout).toMatch(/^FOUND {2}npm yaml {2}GHSA-aaaa-bbbb-cccc {2}Runs what it reads$/m);
  expect(exitCode).toBe(1);
});

test('a moderate one is not', async () => {
  advisories = { yaml: [advisory('moderate', Date.now())] };
  const { exitCode, stdout } = await audit();
  expect(stdout).not.toContain('npm yaml');
  expect(exitCode).not.toBe(1);
});

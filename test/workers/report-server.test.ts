import { beforeAll, expect, test } from '@jest/globals';
import { appendFileSync, mkdirSync } from 'node:fs';
import { request } from 'node:http';
import { freePort } from '../../host/ports.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import type { HostSettings } from '../../host/settings.ts';
import { writeJson, writeWhole } from '../../host/state-file.ts';
import { reportsPort, serveReports } from '../../workers/report-server.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

let port: number;
let url: string;
beforeAll(async () => {
  const home = newFolder();
  const ended = openRunDirectory(home, 'ended');
  await writeJson(ended.manifest, { outcome: 'deployed', finishedAt: '2026-01-01T00:00:00Z', stages: [] });
  await writeWhole(ended.report, '<p>as it was written</p>');
  const running = openRunDirectory(home, 'weekly-2026-01-04T02:00:00Z');
  mkdirSync(running.train);
  appendFileSync(
    running.events,
    '{"type":"step","step":1,"loss":2,"maxSteps":9,"time":1}\n{"type":"step","step":2,"loss":1,"maxSteps":9,"time":2}\n',
  );
  port = await freePort();
  url = (await serveReports({ home } as HostSettings, port)).reportsUrl!;
});

async function get(path: string, host = `127.0.0.1:${port}`): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', port, path, headers: { host } }, (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => (body += chunk.toString()));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
    });
    asked.once('error', reject);
    asked.end();
  });
}

test('the report of a run that has ended is the one that was written, that of one under way is made now', async () => {
  expect(url).toBe(`http://127.0.0.1:${port}`);
  expect(await get('/runs/ended')).toEqual({ status: 200, body: '<p>as it was written</p>' });
  const running = await get(`/runs/${encodeURIComponent('weekly-2026-01-04T02:00:00Z')}`);
  expect(running.body).toContain('2 of 9 steps');
});

test('/ lists the runs', async () => {
  const { body } = await get('/');
  expect(body).toContain('<a href="/runs/ended">ended</a>');
  expect(body).toContain('<a href="/runs/weekly-2026-01-04T02%3A00%3A00Z">weekly-2026-01-04T02:00:00Z</a>');
});

test.each([
  ['/runs/nothing', 404],
  ['/runs/..%2f..%2fetc%2fpasswd', 404],
  ['/etc/passwd', 404],
])('%s is answered with %i', async (path, status) => {
  expect((await get(path)).status).toBe(status);
});

test('a page elsewhere whose name is made to lead here reads nothing', async () => {
  expect((await get('/runs/ended', 'evil.example:8234')).status).toBe(403);
  expect((await get('/runs/ended', `localhost:${port}`)).status).toBe(200);
});

test('TEMPER_REPORTS_PORT is a port or nothing', () => {
  expect(reportsPort({})).toBeUndefined();
  expect(reportsPort({ TEMPER_REPORTS_PORT: '8234' })).toBe(8234);
  expect(() => reportsPort({ TEMPER_REPORTS_PORT: 'all' })).toThrow('TEMPER_REPORTS_PORT is "all"; it takes a port');
});

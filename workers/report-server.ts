import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { errorNameOf, messageOf, TemperError } from '../host/errors.ts';
import { markup } from '../host/report/markup.ts';
import { renderReport } from '../host/report/render-report.ts';
import { readRunState } from '../host/report/run-state.ts';
import { runDirectory, runsIn } from '../host/run-directory.ts';
import type { HostSettings } from '../host/settings.ts';

/** A page's own scripts and pictures, and nothing from elsewhere. */
const POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:";

const HOST = '127.0.0.1';

/** The port in TEMPER_REPORTS_PORT; undefined when it is not set. */
export function reportsPort(env: NodeJS.ProcessEnv = process.env): number | undefined {
  const text = env.TEMPER_REPORTS_PORT || undefined;
  if (text === undefined) return undefined;
  if (/^\d{1,5}$/.test(text) && Number(text) >= 1 && Number(text) <= 65535) return Number(text);
  throw new TemperError(
    'ConfigError',
    `TEMPER_REPORTS_PORT is ${JSON.stringify(text)}; it takes a port from 1 to 65535.`,
  );
}

/**
 * Serve the reports of this home's runs on loopback, of a run under way as it stands now; `/` lists them. Returns the settings
 * with the address, for links. HostError when the port is taken.
 */
export async function serveReports(settings: HostSettings, port: number): Promise<HostSettings> {
  const server = createServer((request, response) => {
    answer(settings.home, request, response).catch((error: unknown) => {
      if (errorNameOf(error) === 'ConfigError') return send(response, 404, messageOf(error));
      console.error(error);
      if (!response.headersSent) send(response, 500, 'The report could not be made; the worker says why.');
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, HOST, resolve);
  }).catch((error: unknown) => {
    throw new TemperError(
      'HostError',
      `Reports can't be served on ${HOST}:${port} (${messageOf(error)}); set TEMPER_REPORTS_PORT to another port.`,
      { cause: error },
    );
  });
  server.unref();
  return { ...settings, reportsUrl: `http://${HOST}:${port}` };
}

async function answer(home: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  // A page elsewhere whose name is made to lead here must not read what lies on loopback.
  const named = new URL(`http://${request.headers.host ?? ''}`).hostname;
  if (!['localhost', HOST].includes(named)) return send(response, 403, 'This is not the name of this host.');
  const { pathname } = new URL(request.url ?? '/', 'http://localhost');
  if (request.method !== 'GET') return send(response, 405, 'Only GET.');
  if (pathname === '/') return send(response, 200, await listOf(home), 'text/html');
  const runName = /^\/runs\/([^/]+)$/.exec(pathname)?.[1];
  if (runName === undefined) return send(response, 404, 'There are / and /runs/NAME.');
  const run = runDirectory(home, decodeURIComponent(runName));
  if (!existsSync(run.path)) return send(response, 404, 'There is no such run on this host.');
  const { finishedAt } = await readRunState(run);
  const isWritten = finishedAt !== null && existsSync(run.report);
  send(response, 200, isWritten ? await readFile(run.report, 'utf8') : await renderReport(run), 'text/html');
}

async function listOf(home: string): Promise<string> {
  const names = await runsIn(home);
  const items = names.map((name) => markup`<li><a href="/runs/${encodeURIComponent(name)}">${name}</a></li>\n`);
  return markup`<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Runs · Temper</title></head><body><h1>Runs</h1><ul>${items}</ul></body></html>`
    .text;
}

function send(response: ServerResponse, status: number, body: string, type = 'text/plain'): void {
  response.writeHead(status, {
    'content-type': `${type}; charset=utf-8`,
    'content-security-policy': POLICY,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  response.end(body);
}

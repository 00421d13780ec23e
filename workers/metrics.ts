import type { RuntimeOptions } from '@temporalio/worker';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { isIP } from 'node:net';
import { TemperError, messageOf } from '../host/errors.ts';
import { Metrics } from '../host/metrics/metrics.ts';
import { portIsFree } from '../host/ports.ts';
import type { HostSettings } from '../host/settings.ts';

/** Where the worker's metrics are served; the Temporal SDK's own on one port, Temper's on the next. */
export interface MetricsAddress {
  host: string;
  sdkPort: number;
  temperPort: number;
}

/** From TEMPER_METRICS_ADDRESS, as `127.0.0.1:9464`; undefined when that is not set: then there are no metrics. */
export function metricsAddress(env: NodeJS.ProcessEnv = process.env): MetricsAddress | undefined {
  const text = env.TEMPER_METRICS_ADDRESS || undefined;
  if (text === undefined) return undefined;
  const [, host = '', digits] = /^(.+):(\d{1,5})$/.exec(text) ?? [];
  const port = Number(digits);
  if (isIP(withoutBrackets(host)) !== 0 && port >= 1 && port <= 65534)
    return { host, sdkPort: port, temperPort: port + 1 };
  throw new TemperError(
    'ConfigError',
    `TEMPER_METRICS_ADDRESS is ${JSON.stringify(text)}; it takes an IP address and a port from 1 to 65534, as 127.0.0.1:9464.`,
  );
}

/** What the SDK is to be told, so that it serves its own metrics; with units in their names, durations in seconds. */
export function sdkMetrics(address = metricsAddress()): NonNullable<RuntimeOptions['telemetryOptions']> {
  if (address === undefined) return {};
  const bindAddress = `${address.host}:${address.sdkPort}`;
  return {
    metrics: {
      prometheus: { bindAddress, countersTotalSuffix: true, unitSuffix: true, useSecondsForDurations: true },
    },
  };
}

/**
 * Serve Temper's metrics until the function that is returned is called; does nothing without an address. To be called before
 * the SDK serves its own, since its words for a port that is taken name no port.
 */
export async function serveMetrics(settings: HostSettings, address = metricsAddress()): Promise<() => void> {
  if (address === undefined) return () => {};
  const server = metricsServer(new Metrics(settings));
  await listen(server, address);
  return () => {
    server.close();
    server.closeAllConnections();
  };
}

function metricsServer(metrics: Metrics): Server {
  return createServer((request, response) => {
    if (request.url !== '/metrics') {
      response.writeHead(404).end('Metrics are at /metrics.\n');
      return;
    }
    metrics.text().then(
      (text) => response.writeHead(200, { 'content-type': metrics.registry.contentType }).end(text),
      (error: unknown) => response.writeHead(500).end(`${messageOf(error)}\n`),
    );
  });
}

function withoutBrackets(host: string): string {
  return host.replace(/^\[(.*)\]$/, '$1');
}

async function listen(server: Server, { host, sdkPort, temperPort }: MetricsAddress): Promise<void> {
  if (!(await portIsFree(sdkPort, withoutBrackets(host))))
    throw cannotServe(`${host}:${sdkPort}`, 'it is taken, or no address of this host');
  try {
    server.listen(temperPort, withoutBrackets(host));
    await once(server, 'listening');
  } catch (error) {
    throw cannotServe(`${host}:${temperPort}`, messageOf(error));
  }
}

function cannotServe(where: string, why: string): TemperError {
  return new TemperError(
    'HostError',
    `Metrics can't be served on ${where} (${why}); give TEMPER_METRICS_ADDRESS another address, or unset it.`,
  );
}

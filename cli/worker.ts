import { connectWorker, readConnection } from '../workers/connection.ts';
import { installRuntime, startGpuHost } from '../workers/gpu-host.ts';
import { serveMetrics } from '../workers/metrics.ts';
import { reportsPort, serveReports } from '../workers/report-server.ts';
import { readSettings } from '../workers/settings.ts';

const PATIENCE_MS = 24 * 3600_000;

/** `temper worker`: this host's worker until SIGINT or SIGTERM; waits for a server that is not up yet. */
export async function work(): Promise<void> {
  const port = reportsPort();
  const settings = port === undefined ? readSettings() : await serveReports(readSettings(), port);
  await serveMetrics(settings);
  installRuntime();
  const { address } = readConnection();
  console.log(`worker: connecting to ${address}`);
  const { connection, namespace } = await connectWorker(PATIENCE_MS);
  const host = await startGpuHost(settings, connection, namespace);
  console.log(`worker: ready on ${address}, namespace ${namespace}; runs are kept in ${settings.home}`);
  await host.stopped;
  console.log('worker: stopped; trainers and deployed models go on');
  process.exit(0);
}

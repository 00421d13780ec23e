import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TemperError } from '../host/errors.ts';
import { identify, isAlive, stopTree, type ProcessIdentity } from '../host/process-table.ts';
import { freePort, portIsFree } from '../host/ports.ts';
import { readJson, writeJson } from '../host/state-file.ts';
import { connectWorker } from '../workers/connection.ts';
import { installRuntime, startGpuHost } from '../workers/gpu-host.ts';
import { serveMetrics } from '../workers/metrics.ts';
import { reportsPort, serveReports } from '../workers/report-server.ts';
import { readSettings } from '../workers/settings.ts';
import { startEmbeddedServer, stopEmbeddedServer } from './embedded-server.ts';

/** `$TEMPER_HOME/up.json`: the `temper up` that runs on this home. */
export interface UpRecord {
  process: ProcessIdentity;
  address: string;
  uiUrl: string;
  reportsUrl: string;
}

const REPORTS_PORT = 8234;
const DOWN_GRACE_MS = 60_000;

/** `temper up`: embedded Temporal server and this host's worker, until SIGINT or SIGTERM. */
export async function up(options: { port: string; uiPort: string }): Promise<void> {
  const settings = readSettings();
  const running = await findUp(settings.home);
  if (running !== undefined) {
    throw new TemperError(
      'HostError',
      `\`temper up\` already runs for ${settings.home}: server ${running.address}, UI ${running.uiUrl}.`,
    );
  }
  await serveMetrics(settings);
  installRuntime();
  const server = await startEmbeddedServer(settings.home, Number(options.port), Number(options.uiPort));
  try {
    process.env.TEMPORAL_ADDRESS = server.address;
    const { connection, namespace } = await connectWorker(10_000);
    const reporting = await serveReports(settings, await portForReports());
    const host = await startGpuHost(reporting, connection, namespace);
    const own = identify(process.pid);
    if (own !== undefined)
      await writeJson(upFile(settings.home), {
        process: own,
        address: server.address,
        uiUrl: server.uiUrl,
        reportsUrl: reporting.reportsUrl ?? '',
      } satisfies UpRecord);
    sayUp(server.address, server.uiUrl, reporting.reportsUrl ?? '');
    await Promise.race([host.stopped, untilEnded(server.process)]);
    host.shutdown();
    await host.stopped;
  } finally {
    await rm(upFile(settings.home), { force: true });
    await stopEmbeddedServer(server);
  }
  console.log('Server and worker are down; trainers and deployed models go on.');
  process.exit(0);
}

/** The port that is set, the usual one, or any where that is taken: nobody has to know it. */
async function portForReports(): Promise<number> {
  return reportsPort() ?? ((await portIsFree(REPORTS_PORT)) ? REPORTS_PORT : freePort());
}

/** `temper down`: stop the `temper up` of this home. */
export async function down(): Promise<void> {
  const { home } = readSettings();
  const running = await findUp(home);
  if (running === undefined) return console.log(`No \`temper up\` runs for ${home}.`);
  await stopTree(running.process, DOWN_GRACE_MS);
  console.log('Server and worker are down; trainers and deployed models go on.');
}

/** The `temper up` that runs on this home now. */
export async function findUp(home: string): Promise<UpRecord | undefined> {
  const record = await readJson<UpRecord>(upFile(home));
  return record !== undefined && isAlive(record.process) ? record : undefined;
}

function upFile(home: string): string {
  return join(home, 'up.json');
}

function sayUp(address: string, uiUrl: string, reportsUrl: string): void {
  const prefix = address === '127.0.0.1:7233' ? '' : `TEMPORAL_ADDRESS=${address} `;
  console.log(`Temporal server ${address}, UI ${uiUrl}, reports ${reportsUrl}`);
  console.log('Start a run:  npx temper start demo --watch');
  console.log(
    `or            ${prefix}temporal workflow start --type fineTune --task-queue temper --workflow-id my-run --input '{"config":"demo"}'`,
  );
  console.log('Ctrl-C stops server and worker; a training and deployed models go on.');
}

async function untilEnded(server: ProcessIdentity): Promise<void> {
  while (isAlive(server)) await sleep(500);
}

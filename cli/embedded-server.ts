import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { temporalCli } from '../host/checkout.ts';
import { TemperError } from '../host/errors.ts';
import { portIsFree } from '../host/ports.ts';
import { identify, isAlive, stopTree, type ProcessIdentity } from '../host/process-table.ts';
import { runProgram, startDetached } from '../host/subprocess.ts';

export interface EmbeddedServer {
  address: string;
  uiUrl: string;
  process: ProcessIdentity;
}

/** The same as `deploy/temporal/set-up-namespace.sh` registers on the production server. */
const searchAttributes = ['TemperStage=Keyword', 'TemperModel=Keyword', 'TemperOutcome=Keyword', 'TemperScore=Double'];

const START_TIMEOUT_MS = 60_000;
const STOP_GRACE_MS = 10_000;

/** Start the Temporal CLI's server on loopback, its SQLite file below `home` so that history survives; returns when it serves. */
export async function startEmbeddedServer(
  home: string,
  port: number,
  uiPort: number,
  more: string[] = [],
): Promise<EmbeddedServer> {
  await requireFree('Temporal server', port, '--port');
  await requireFree('Temporal UI', uiPort, '--ui-port');
  mkdirSync(home, { recursive: true });
  const logFile = join(home, 'temporal.log');
  const args = [
    ...['server', 'start-dev', '--db-filename', join(home, 'temporal.db')],
    ...['--ip', '127.0.0.1', '--port', String(port), '--ui-ip', '127.0.0.1', '--ui-port', String(uiPort)],
    ...['--log-level', 'warn', ...searchAttributes.flatMap((attribute) => ['--search-attribute', attribute])],
    ...more,
  ];
  const process = identify(startDetached(temporalCli, args, logFile));
  const address = `127.0.0.1:${port}`;
  const deadline = Date.now() + START_TIMEOUT_MS;
  while (process !== undefined && isAlive(process) && Date.now() < deadline) {
    const health = await runProgram(temporalCli, ['operator', 'cluster', 'health', '--address', address]);
    if (health.exitCode === 0) return { address, uiUrl: `http://127.0.0.1:${uiPort}`, process };
    await sleep(100);
  }
  if (process !== undefined) await stopTree(process, STOP_GRACE_MS);
  throw new TemperError('HostError', `The embedded Temporal server did not start; its log: ${logFile}`);
}

export async function stopEmbeddedServer({ process }: EmbeddedServer): Promise<void> {
  await stopTree(process, STOP_GRACE_MS);
}

async function requireFree(what: string, port: number, flag: string): Promise<void> {
  if (await portIsFree(port)) return;
  throw new TemperError(
    'HostError',
    `The port of the ${what}, ${port}, is in use (another \`temper up\`, perhaps). Stop what listens there, or choose another port with ${flag}.`,
  );
}

import { Client, Connection } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { NativeConnection } from '@temporalio/worker';
import { setTimeout as sleep } from 'node:timers/promises';
import { TemperError, messageOf } from '../host/errors.ts';
import { readDataConverter } from './payload-codec.ts';

/** Where the Temporal server is, from TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS_* and profiles. */
export function readConnection(): {
  address: string;
  namespace: string;
  options: ReturnType<typeof loadClientConnectConfig>['connectionOptions'];
} {
  const { connectionOptions, namespace } = readEnvironment();
  return {
    address: connectionOptions.address ?? 'localhost:7233',
    namespace: namespace ?? 'default',
    options: connectionOptions,
  };
}

/** Whether the environment or a profile says where the server is. */
export function namesServer(): boolean {
  return readEnvironment().connectionOptions.address !== undefined;
}

function readEnvironment(): ReturnType<typeof loadClientConnectConfig> {
  try {
    return loadClientConnectConfig();
  } catch (error) {
    throw new TemperError(
      'ConfigError',
      `The settings of the connection to Temporal can't be used (${messageOf(error).split('\n')[0]}). See the variables TEMPORAL_TLS_*, TEMPORAL_CONFIG_FILE and TEMPORAL_PROFILE.`,
      { cause: error },
    );
  }
}

/** A worker's connection; tries again until the server is up or `patienceMs` has passed. */
export async function connectWorker(patienceMs: number): Promise<{ connection: NativeConnection; namespace: string }> {
  const { address, namespace, options } = readConnection();
  const deadline = Date.now() + patienceMs;
  for (;;) {
    try {
      return { connection: await NativeConnection.connect(options), namespace };
    } catch (error) {
      if (Date.now() > deadline) throw noServer(address, error);
      await sleep(500);
    }
  }
}

/** A client for commands; one clear error when there is no server. */
export async function connectClient(): Promise<Client> {
  const converter = readDataConverter();
  const { address, namespace, options } = readConnection();
  try {
    return new Client({ connection: await Connection.connect(options), namespace, ...converter });
  } catch (error) {
    throw noServer(address, error);
  }
}

function noServer(address: string, error: unknown): TemperError {
  return new TemperError(
    'HostError',
    `No Temporal server answers at ${address} (${messageOf(error).split('\n')[0]}). Start the embedded one with \`npx temper up\`, or set TEMPORAL_ADDRESS.`,
    { cause: error },
  );
}

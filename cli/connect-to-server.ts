import type { Client } from '@temporalio/client';
import { connectClient, namesServer } from '../workers/connection.ts';
import { readSettings } from '../workers/settings.ts';
import { findUp } from './up.ts';

/** A client of the server that the environment names, else of the `temper up` that runs here. */
export async function connectToServer(): Promise<Client> {
  if (!namesServer()) {
    const running = await findUp(readSettings().home);
    if (running !== undefined) process.env.TEMPORAL_ADDRESS = running.address;
  }
  return connectClient();
}

import { once } from 'node:events';
import { createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { digestOfValue } from './digest.ts';

/**
 * Do `work` while nobody else on this host does under the same name; waits for whoever does. The kernel frees the lock when
 * its process ends, however it ends: it is a listening socket without a file (unix(7), abstract).
 */
export async function whileLocked<T>(
  name: string,
  { signal, onWait }: { signal: AbortSignal; onWait?: () => void },
  work: () => Promise<T>,
): Promise<T> {
  const address = `\0temper-${digestOfValue(name)}`;
  let lock = await take(address);
  while (lock === undefined) {
    onWait?.();
    await sleep(250, undefined, { signal });
    lock = await take(address);
  }
  try {
    return await work();
  } finally {
    lock.close();
    await once(lock, 'close');
  }
}

async function take(address: string): Promise<Server | undefined> {
  const server = createServer();
  try {
    server.listen(address);
    await once(server, 'listening');
    return server;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') return undefined;
    throw error;
  }
}

import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';

/** Whether a TCP port can be listened on now. */
export async function portIsFree(port: number, host = '127.0.0.1'): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** A TCP port that was free a moment ago. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen({ port: 0, host }, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

/** A free TCP port for a server that will be stopped and started again: none that the kernel gives to clients meanwhile. */
export async function lastingFreePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * (firstClientPort() - 10_000));
    if (await portIsFree(port)) return port;
  }
}

function firstClientPort(): number {
  const lowest = Number(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').split(/\s/)[0]);
  return Math.max(20_000, lowest);
}

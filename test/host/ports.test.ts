import { expect, test } from '@jest/globals';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { freePort, lastingFreePort, portIsFree } from '../../host/ports.ts';

test('a port that somebody listens on is not free, and is again once they have gone', async () => {
  const server = createServer().listen({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  expect(await portIsFree(port)).toBe(false);
  expect(await portIsFree(port, '0.0.0.0')).toBe(false);
  server.close();
  await once(server, 'close');
  expect(await portIsFree(port)).toBe(true);
});

test('a free port is one that can be listened on', async () => {
  const port = await freePort();
  expect(port).toBeGreaterThan(0);
  expect(await portIsFree(port)).toBe(true);
});

test('no port of an address that is not this host is free', async () => {
  expect(await portIsFree(0, '192.0.2.1')).toBe(false);
});

test('a lasting port is none that the kernel gives to clients', async () => {
  const lowest = Number(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').split(/\s/)[0]);
  const port = await lastingFreePort();
  expect(port).toBeLessThan(Math.max(20_000, lowest));
  expect(await portIsFree(port)).toBe(true);
});

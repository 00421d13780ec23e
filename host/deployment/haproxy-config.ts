import { join } from 'node:path';

/** The two addresses of a deployment; each has a frontend and two backends of HAProxy. */
export type AddressKind = 'api' | 'page';
export const addressKinds: AddressKind[] = ['api', 'page'];

/** Relative to HAProxy's folder, since the path of a unix socket is limited to about 100 bytes. */
export const SOCKET_FILE = 'haproxy.sock';

/** Two take turns; the others keep it known to whom requests still in flight belong when swaps come thick and fast. */
const SLOTS = ['a', 'b', 'c', 'd'];

/** Nothing listens there: every connection is refused at once. */
const NOWHERE = '127.0.0.1:1';

/** HAProxy retries once a second: until a crashed container is back, or a held address has a server again. */
const RETRIES = 60;
const RETRIES_WHILE_HELD = 600;

export function configFile(folder: string): string {
  return join(folder, 'haproxy.cfg');
}

/** What one address points at is a file of its own, so that both can be changed at once. */
export function pointingFile(folder: string, kind: AddressKind): string {
  return join(folder, `${kind}.cfg`);
}

/** Stays in the foreground, and has its socket in `folder`. */
export function haproxyArguments(folder: string): string[] {
  const files = [configFile(folder), ...addressKinds.map((kind) => pointingFile(folder, kind))];
  return ['-db', '-C', folder, ...files.flatMap((file) => ['-f', file])];
}

export function frontendOf(kind: AddressKind): string {
  return `${kind}-address`;
}

/** The backends of an address: one for when a server is known, and one where requests wait for a server. */
export function backendsOf(kind: AddressKind): { serving: string; held: string } {
  return { serving: kind, held: `${kind}-held` };
}

/**
 * What stays the same while HAProxy runs. A server's connection serves one request, so that none is sent into a connection
 * that the server is just closing; and only a connection that was never made is retried, so that nothing is done twice.
 */
export function mainConfig(listen: Record<AddressKind, string>): string {
  return `global
  nbthread 1
  maxconn 1500
  no strict-limits
  noreuseport
  stats socket unix@${SOCKET_FILE} mode 600 level admin
  log stdout format iso daemon err

defaults
  mode http
  log global
  option httplog
  option dontlognull
  option log-separate-errors
  option http-server-close
  option http-ignore-probes
  option abortonclose
  option redispatch 1
  retry-on conn-failure
  timeout connect 5s
  timeout queue 10m
  timeout http-request 1m
  timeout http-keep-alive 10m
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
${addressKinds.map((kind) => frontend(kind, listen[kind])).join('')}`;
}

function frontend(kind: AddressKind, address: string): string {
  const { serving, held } = backendsOf(kind);
  return `
frontend ${frontendOf(kind)}
  bind ${address}
  use_backend ${held} if { nbsrv(${serving}) eq 0 }
  default_backend ${serving}
`;
}

/** Where requests to an address go after a start of HAProxy; with null they wait. */
export function pointingConfig(kind: AddressKind, port: number | null): string {
  const slots = SLOTS.map((slot, index) =>
    index === 0 && port !== null ? `  server ${slot} 127.0.0.1:${port}` : `  server ${slot} ${NOWHERE} disabled`,
  ).join('\n');
  const { serving, held } = backendsOf(kind);
  return `backend ${serving}
  retries ${RETRIES}
${slots}

backend ${held}
  retries ${RETRIES_WHILE_HELD}
${slots}
  server hold ${NOWHERE} backup
`;
}

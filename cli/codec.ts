import type { Payload } from '@temporalio/common';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { TemperError, messageOf } from '../host/errors.ts';
import { EncryptionCodec, readKeys } from '../workers/payload-codec.ts';

/** A payload as Temporal's remote codecs exchange it: bytes in base64. */
interface JsonPayload {
  metadata?: Record<string, string>;
  data?: string;
}

const MAX_BODY_BYTES = 16 * 2 ** 20;

/**
 * `temper codec`: on loopback, what the Temporal CLI (`--codec-endpoint`) and UI decode encrypted payloads by. Protocol:
 * https://docs.temporal.io/production-deployment/data-encryption
 */
export async function serveCodec({ port, origin }: { port: string; origin: string }): Promise<void> {
  const keys = readKeys(process.env.TEMPER_PAYLOAD_KEYS || undefined);
  if (keys === undefined) throw new TemperError('ConfigError', 'TEMPER_PAYLOAD_KEYS is not set: nothing is encrypted.');
  const codec = new EncryptionCodec(keys);
  const server = createServer((request, response) => void answer(codec, origin, request, response));
  server.listen(Number(port), '127.0.0.1');
  await once(server, 'listening');
  console.log(`codec: http://127.0.0.1:${(server.address() as AddressInfo).port}`);
}

async function answer(
  codec: EncryptionCodec,
  origin: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  response.setHeader('access-control-allow-origin', origin);
  response.setHeader('access-control-allow-headers', 'content-type,x-namespace');
  const work = { '/encode': codec.encode.bind(codec), '/decode': codec.decode.bind(codec) }[request.url ?? ''];
  if (request.method === 'OPTIONS') return void response.writeHead(204).end();
  if (request.method !== 'POST' || work === undefined) return void response.writeHead(404).end();
  try {
    const { payloads = [] } = JSON.parse(await bodyOf(request)) as { payloads?: JsonPayload[] };
    const done = await work(payloads.map(fromJson));
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ payloads: done.map(toJson) }));
  } catch (error) {
    response.writeHead(400, { 'content-type': 'text/plain' }).end(messageOf(error));
  }
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    chunks.push(chunk as Buffer);
    size += (chunk as Buffer).length;
    if (size > MAX_BODY_BYTES) throw new Error(`more than ${MAX_BODY_BYTES} bytes`);
  }
  return Buffer.concat(chunks).toString();
}

function fromJson({ metadata = {}, data = '' }: JsonPayload): Payload {
  const entries = Object.entries(metadata).map(([name, value]) => [name, Buffer.from(value, 'base64')]);
  return { metadata: Object.fromEntries(entries) as Record<string, Buffer>, data: Buffer.from(data, 'base64') };
}

function toJson({ metadata, data }: Payload): JsonPayload {
  const base64 = (bytes: Uint8Array | null | undefined) => Buffer.from(bytes ?? []).toString('base64');
  const entries = Object.entries(metadata ?? {}).map(([name, value]) => [name, base64(value)]);
  return { metadata: Object.fromEntries(entries) as Record<string, string>, data: base64(data) };
}

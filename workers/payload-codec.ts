import type { DataConverter, Payload, PayloadCodec } from '@temporalio/common';
import protocol from '@temporalio/proto';
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { TemperError } from '../host/errors.ts';

/** A payload's encoding, as in Temporal's own encryption sample. */
const ENCODING = 'binary/encrypted';
const CIPHER = 'aes-256-gcm';
const [KEY_BYTES, NONCE_BYTES, TAG_BYTES] = [32, 12, 16];

const proto = protocol.temporal.api.common.v1.Payload;

/**
 * What clients and workers convert data with: with TEMPER_PAYLOAD_KEYS (`ID:KEY`, several with commas between, each key 32 bytes in
 * base64) everything in histories but names and search attributes is encrypted with the first key, and read with any of them.
 */
export function readDataConverter(env: NodeJS.ProcessEnv = process.env): { dataConverter?: DataConverter } {
  const keys = readKeys(env.TEMPER_PAYLOAD_KEYS || undefined);
  return keys === undefined ? {} : { dataConverter: { payloadCodecs: [new EncryptionCodec(keys)] } };
}

/** The keys by their IDs, the one that encrypts first; undefined when there are none. ConfigError for any that is none. */
export function readKeys(text: string | undefined): Map<string, Buffer> | undefined {
  if (text === undefined) return undefined;
  const keys = text.split(',').map((each): [string, Buffer] => {
    const [, id = '', base64 = ''] = /^([\w.-]+):([A-Za-z0-9+/]+=*)$/.exec(each.trim()) ?? [];
    const key = Buffer.from(base64, 'base64');
    if (key.length === KEY_BYTES) return [id, key];
    throw new TemperError(
      'ConfigError',
      'TEMPER_PAYLOAD_KEYS takes ID:KEY, with commas between several, each key 32 bytes in base64, as `openssl rand -base64 32` makes one.',
    );
  });
  return new Map(keys);
}

/** AES-256-GCM over whole payloads: nonce, tag, ciphertext. What is not encrypted, such as the Temporal CLI's input, is read as it is. */
export class EncryptionCodec implements PayloadCodec {
  readonly #keys: Map<string, Buffer>;
  readonly #id: string;

  constructor(keys: Map<string, Buffer>) {
    this.#keys = keys;
    this.#id = [...keys.keys()][0] ?? '';
  }

  encode(payloads: Payload[]): Promise<Payload[]> {
    return Promise.resolve(payloads).then((all) => all.map((payload) => this.#encrypt(payload)));
  }

  decode(payloads: Payload[]): Promise<Payload[]> {
    return Promise.resolve(payloads).then((all) =>
      all.map((payload) => (textOf(payload, 'encoding') === ENCODING ? this.#decrypt(payload) : payload)),
    );
  }

  #encrypt(payload: Payload): Payload {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(CIPHER, this.#key(this.#id), nonce);
    const body = Buffer.concat([cipher.update(proto.encode(payload).finish()), cipher.final()]);
    return {
      metadata: { encoding: Buffer.from(ENCODING), 'encryption-key-id': Buffer.from(this.#id) },
      data: Buffer.concat([nonce, cipher.getAuthTag(), body]),
    };
  }

  #decrypt(payload: Payload): Payload {
    const data = Buffer.from(payload.data ?? []);
    const nonce = data.subarray(0, NONCE_BYTES);
    const decipher = createDecipheriv(CIPHER, this.#key(textOf(payload, 'encryption-key-id')), nonce);
    decipher.setAuthTag(data.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
    return proto.decode(Buffer.concat([decipher.update(data.subarray(NONCE_BYTES + TAG_BYTES)), decipher.final()]));
  }

  #key(id: string): Buffer {
    const key = this.#keys.get(id);
    if (key !== undefined) return key;
    throw new TemperError(
      'HostError',
      `A payload is encrypted with the key ${id}, which is not in TEMPER_PAYLOAD_KEYS.`,
    );
  }
}

function textOf({ metadata }: Payload, name: string): string {
  return Buffer.from(metadata?.[name] ?? []).toString();
}

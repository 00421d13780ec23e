import { open } from 'node:fs/promises';

/** Each tensor's type in a safetensors file, from its header (8 bytes of little-endian length, then JSON). */
export async function tensorTypes(path: string): Promise<Record<string, string>> {
  const file = await open(path, 'r');
  try {
    const { buffer: size } = await file.read(Buffer.alloc(8), 0, 8, 0);
    const length = Number(size.readBigUInt64LE());
    const { buffer: header } = await file.read(Buffer.alloc(length), 0, length, 8);
    const { __metadata__: _, ...tensors } = JSON.parse(header.toString('utf8')) as Record<string, { dtype: string }>;
    return Object.fromEntries(Object.entries(tensors).map(([name, { dtype }]) => [name, dtype]));
  } finally {
    await file.close();
  }
}

import { readFileSync, writeFileSync } from 'node:fs';
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

/** Change one bfloat16 tensor's values in a safetensors file, given and returned as their 16 bits. */
export function changeTensor(path: string, name: string, change: (bits: number) => number): void {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE());
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<string, { data_offsets: [number, number] }>;
  const [begin, end] = header[name]?.data_offsets ?? [0, 0];
  if (begin === end) throw new Error(`${path} has no ${name}`);
  for (let at = 8 + length + begin; at < 8 + length + end; at += 2)
    file.writeUInt16LE(change(file.readUInt16LE(at)), at);
  writeFileSync(path, file);
}

import { open } from 'node:fs/promises';

/** Text of a growing file from this byte on, or of so many last bytes; from the beginning when it is shorter than it was. */
export async function readFrom(path: string, from: number): Promise<{ text: string; end: number }> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (file === undefined) return { text: '', end: 0 };
  try {
    const { size } = await file.stat();
    const start = from < 0 ? Math.max(0, size + from) : from > size ? 0 : from;
    const buffer = Buffer.alloc(size - start);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, start);
    return { text: buffer.subarray(0, bytesRead).toString('utf8'), end: start + bytesRead };
  } finally {
    await file.close();
  }
}

/** The last lines, each with what a progress bar showed last. */
export function lastLines(text: string, count: number): string[] {
  const lines = text.replace(/\n$/, '').split('\n').slice(-count);
  return lines.map((line) => line.replace(/\r+$/, '').split('\r').at(-1) ?? '');
}

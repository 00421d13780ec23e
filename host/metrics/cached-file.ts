import { stat } from 'node:fs/promises';

/** What was made of some files; made again once one of them has another size or time of change. */
export class CachedFiles<T> {
  readonly #known = new Map<string, { version: string; value: T }>();

  async get(files: string[], read: () => Promise<T>): Promise<T> {
    const key = files.join('\n');
    const version = (await Promise.all(files.map(versionOf))).join('\n');
    const known = this.#known.get(key);
    if (known?.version === version) return known.value;
    const value = await read();
    this.#known.set(key, { version, value });
    return value;
  }
}

async function versionOf(file: string): Promise<string> {
  const found = await stat(file).catch(() => undefined);
  return found === undefined ? 'none' : `${found.size} ${found.mtimeMs}`;
}

import { afterEach, beforeEach } from '@jest/globals';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

/** Programs that stand in for the machine's own: before each of a file's tests an empty folder comes first on the PATH. */
export function standInPrograms(): { readonly folder: string; put: (name: string, script: string) => void } {
  const PATH = process.env.PATH ?? '';
  let folder: string;
  beforeEach(() => {
    folder = newFolder();
    process.env.PATH = `${folder}:${PATH}`;
  });
  afterEach(() => {
    process.env.PATH = PATH;
  });
  return {
    get folder() {
      return folder;
    },
    put: (name, script) => {
      writeFileSync(join(folder, name), script);
      chmodSync(join(folder, name), 0o755);
    },
  };
}

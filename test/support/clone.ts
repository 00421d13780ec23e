import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { checkout } from '../../host/checkout.ts';

/** What set-up has made and no test writes to; the clone links to it. */
const LINKED = ['node_modules', 'trainer/.venv', '.setup'];
const LEFT_OUT = ['.git', '.temper', '.env', 'serving/.venv-vllm', 'serving/.venv-vllm-cpu', 'test'];

/** A folder that is as this checkout is, set up, and may be written to; the caller removes it. */
export function makeClone(): string {
  const clone = mkdtempSync(join(tmpdir(), 'temper-clone-'));
  const without = new Set([...LINKED, ...LEFT_OUT]);
  cpSync(checkout, clone, { recursive: true, filter: (path) => !without.has(relative(checkout, path)) });
  for (const folder of LINKED) symlinkSync(join(checkout, folder), join(clone, folder));
  return clone;
}

export function removeClone(clone: string): void {
  for (const folder of LINKED) rmSync(join(clone, folder), { force: true });
  rmSync(clone, { recursive: true, force: true });
}

/** Change a file of the clone; throws when `from` is not in it. */
export function editIn(clone: string, file: string, from: string | RegExp, to: string): void {
  const path = join(clone, file);
  const before = readFileSync(path, 'utf8');
  if (typeof from === 'string' ? !before.includes(from) : !from.test(before)) throw new Error(`${file} has no ${from}`);
  writeFileSync(path, before.replace(from, to));
}

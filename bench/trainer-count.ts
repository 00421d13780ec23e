import { readdirSync, readFileSync } from 'node:fs';
import type { RunDirectory } from '../host/run-directory.ts';

const LOOK_EVERY_MS = 50;

/** Counts the trainers that run on one run's folder, again and again, from the process table alone. */
export class TrainerCount {
  readonly runName: string;
  /** The most that were ever seen at once. */
  most = 0;
  readonly #output: string;
  readonly #timer: NodeJS.Timeout;
  /** Processes that a trainer forked: they have its command line, and keep it when their parent dies before them. */
  readonly #forked = new Set<number>();

  constructor(runName: string, run: RunDirectory) {
    this.runName = runName;
    this.#output = run.trainOutput;
    this.#timer = setInterval(() => this.#look(), LOOK_EVERY_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const parents = processesWritingTo(this.#output);
    for (const pid of this.#forked) if (!parents.has(pid)) this.#forked.delete(pid);
    for (const [pid, parent] of parents) if (parents.has(parent)) this.#forked.add(pid);
    const trainers = [...parents.keys()].filter((pid) => !this.#forked.has(pid));
    this.most = Math.max(this.most, trainers.length);
  }
}

/** The parent of each process that was started as a trainer of this output folder, by the process's pid. */
function processesWritingTo(output: string): Map<number, number> {
  const parents = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const argv = read(`/proc/${pid}/cmdline`).split('\0');
    if (argv[argv.indexOf('--output-dir') + 1] !== output) continue;
    if (argv.some((argument) => argument.endsWith('/keeper.py'))) continue;
    const stat = read(`/proc/${pid}/stat`);
    const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (state !== undefined && state !== 'Z' && state !== 'X') parents.set(pid, Number(parent));
  }
  return parents;
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return ''; // it ended meanwhile
  }
}

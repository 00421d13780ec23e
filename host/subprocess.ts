import { execa, type ResultPromise } from 'execa';
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TemperError } from './errors.ts';

export interface ProgramOptions {
  cwd?: string;
  env?: Record<string, string | undefined>;
  cancelSignal?: AbortSignal | undefined;
  timeoutMs?: number;
  /** Called with each line of stdout as it comes; a trailing half line comes at the end. */
  onLine?: (line: string) => void;
}

export interface ProgramResult {
  /** Exit code; undefined when a signal ended it or it could not be started. */
  exitCode: number | undefined;
  signal: string | undefined;
  stdout: string;
  /** The last lines of stderr. */
  stderr: string;
  /** Why it could not be started, in Node's words. */
  startError: string | undefined;
}

const KILL_AFTER_MS = 5_000;

/**
 * Run a program to its end: no shell, its own process group, stdin empty. A non-zero exit is a result, not an error.
 * When `cancelSignal` aborts, the whole group gets SIGTERM and 5 s later SIGKILL, then the signal's reason is thrown.
 */
export async function runProgram(file: string, args: string[], options: ProgramOptions = {}): Promise<ProgramResult> {
  options.cancelSignal?.throwIfAborted();
  const subprocess = execa(file, args, {
    detached: true,
    stdin: 'ignore',
    reject: false,
    maxBuffer: 20_000_000,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: options.env }),
    ...(options.timeoutMs === undefined ? {} : { timeout: options.timeoutMs }),
  });
  const stop = () => void killGroup(subprocess);
  options.cancelSignal?.addEventListener('abort', stop, { once: true });
  try {
    if (options.onLine) for await (const line of subprocess.iterable()) options.onLine(line);
    const result = await subprocess;
    options.cancelSignal?.throwIfAborted();
    return {
      exitCode: result.exitCode,
      signal: result.signal,
      stdout: result.stdout,
      stderr: lastLines(result.stderr, 40),
      startError: result.exitCode === undefined && result.signal === undefined ? result.shortMessage : undefined,
    };
  } finally {
    options.cancelSignal?.removeEventListener('abort', stop);
  }
}

/** Start a program that outlives this process: own session, stdin empty, stdout and stderr appended to `logFile`. Returns its pid. */
export function startDetached(file: string, args: string[], logFile: string, env: Record<string, string> = {}): number {
  mkdirSync(dirname(logFile), { recursive: true });
  const log = openSync(logFile, 'a');
  try {
    const subprocess = spawn(file, args, { detached: true, stdio: ['ignore', log, log], env: { ...process.env, ...env } });
    subprocess.on('error', () => {}); // a missing program is told by the missing pid
    subprocess.unref();
    if (subprocess.pid === undefined) throw new TemperError('HostError', `${file} could not be started; is it installed?`);
    return subprocess.pid;
  } finally {
    closeSync(log);
  }
}

/** The last `count` lines of a text. */
export function lastLines(text: string, count: number): string {
  return text.trimEnd().split('\n').slice(-count).join('\n');
}

async function killGroup(subprocess: ResultPromise): Promise<void> {
  const { pid } = subprocess;
  if (pid === undefined) return;
  signalGroup(pid, 'SIGTERM');
  await sleep(KILL_AFTER_MS, undefined, { ref: false });
  signalGroup(pid, 'SIGKILL');
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // the group has ended
  }
}

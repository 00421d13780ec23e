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
  /** What it reads from stdin, which is empty otherwise; it may end without having read all. */
  input?: string;
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
  /** Whether `timeoutMs` passed before it ended. */
  timedOut: boolean;
}

const KILL_AFTER_MS = 5_000;

/** Killed processes go at once, but zombies that nobody reaps count as a group for ever. */
const GONE_WITHIN_MS = 2_000;

/**
 * Run a program to its end: no shell, its own process group. A non-zero exit is a result, not an error.
 * When `cancelSignal` aborts or `timeoutMs` has passed, the whole group gets SIGTERM and 5 s later SIGKILL; after an abort
 * the signal's reason is thrown, once nothing of the group is left.
 */
export async function runProgram(file: string, args: string[], options: ProgramOptions = {}): Promise<ProgramResult> {
  options.cancelSignal?.throwIfAborted();
  const subprocess = execa(file, args, {
    detached: true,
    ...(options.input === undefined ? { stdin: 'ignore' as const } : { input: options.input }),
    reject: false,
    maxBuffer: 20_000_000,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: options.env }),
  });
  let stopping: Promise<void> | undefined;
  let timedOut = false;
  const stop = () => void (stopping ??= killGroup(subprocess));
  const giveUp = () => {
    timedOut = true;
    stop();
  };
  options.cancelSignal?.addEventListener('abort', stop, { once: true });
  const timer = options.timeoutMs === undefined ? undefined : setTimeout(giveUp, options.timeoutMs);
  try {
    if (options.onLine) for await (const line of subprocess.iterable()) options.onLine(line);
    const result = await subprocess;
    options.cancelSignal?.throwIfAborted();
    return {
      exitCode: result.exitCode,
      signal: result.signal,
      stdout: result.stdout ?? '', // undefined where not even a start was tried, as for a program without a name
      stderr: lastLines(result.stderr ?? '', 40),
      startError: result.exitCode === undefined && result.signal === undefined ? result.shortMessage : undefined,
      timedOut,
    };
  } finally {
    clearTimeout(timer);
    options.cancelSignal?.removeEventListener('abort', stop);
    await stopping;
  }
}

/**
 * How a Python program that runs for long is started: lines come at once, and OpenMP's threads sleep while they wait instead of
 * spinning, since on a busy machine spinning made one CPU step take 15 s instead of 0.13 s.
 */
export const longRunningPython = { PYTHONUNBUFFERED: '1', OMP_WAIT_POLICY: process.env.OMP_WAIT_POLICY ?? 'PASSIVE' };

/** Start a program that outlives this process: own session, stdin empty, stdout and stderr appended to `logFile`. Returns its pid. */
export function startDetached(file: string, args: string[], logFile: string, env: Record<string, string> = {}): number {
  mkdirSync(dirname(logFile), { recursive: true });
  const log = openSync(logFile, 'a');
  try {
    const subprocess = spawn(file, args, {
      detached: true,
      stdio: ['ignore', log, log],
      env: { ...process.env, ...env },
    });
    subprocess.on('error', () => {}); // a missing program is told by the missing pid
    subprocess.unref();
    if (subprocess.pid === undefined)
      throw new TemperError('HostError', `${file} could not be started; is it installed?`);
    return subprocess.pid;
  } finally {
    closeSync(log);
  }
}

/**
 * Start a program that may stay when this process ends, such as a browser, and see for so long how it does: its exit code, or
 * undefined while it runs; `problem` says why it could not be started, or the last of its stderr.
 */
export async function handOver(
  file: string,
  args: string[],
  patienceMs: number,
): Promise<{ exitCode: number | undefined; problem: string | undefined }> {
  const subprocess = spawn(file, args, { detached: true, stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  subprocess.stderr.on('data', (data: Buffer) => (said = `${said}${data.toString()}`.slice(-4_000)));
  const ended = new Promise<{ exitCode: number | undefined; problem: string | undefined }>((resolve) => {
    subprocess.on('error', (error) => resolve({ exitCode: -1, problem: error.message }));
    subprocess.on('close', (code) => resolve({ exitCode: code ?? -1, problem: lastLines(said, 1) || undefined }));
  });
  const patience = sleep(patienceMs, { exitCode: undefined, problem: undefined });
  const outcome = await Promise.race([ended, patience]);
  subprocess.stderr.destroy();
  subprocess.unref();
  return outcome;
}

/** The last `count` lines of a text. */
export function lastLines(text: string, count: number): string {
  return text.trimEnd().split('\n').slice(-count).join('\n');
}

async function killGroup(subprocess: ResultPromise): Promise<void> {
  const { pid } = subprocess;
  if (pid === undefined) return;
  signalGroup(pid, 'SIGTERM');
  await untilGone(pid, KILL_AFTER_MS);
  signalGroup(pid, 'SIGKILL');
  await untilGone(pid, GONE_WITHIN_MS);
}

async function untilGone(pid: number, patienceMs: number): Promise<void> {
  const deadline = Date.now() + patienceMs;
  while (signalGroup(pid, 0) && Date.now() < deadline) await sleep(50);
}

/** Signal 0 only asks; false when the group has ended. */
function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-pid, signal);
  } catch {
    return false;
  }
}

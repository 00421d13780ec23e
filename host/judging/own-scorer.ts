import { checkout } from '../checkout.ts';
import { TemperError } from '../errors.ts';
import { lastLines, runProgram, type ProgramResult } from '../subprocess.ts';

/** What the scorer reads of a row: one JSON object a line on stdin; pictures as absolute paths. */
export interface ScorerRow {
  question: string;
  images: string[];
  expected: string;
  answer: string;
}

export interface ScorerOptions {
  /** Default: the checkout, as for every relative path of a config. */
  cwd?: string;
  /** For all rows together. Default: ten minutes. */
  timeoutMs?: number;
  cancelSignal?: AbortSignal | undefined;
}

const TIMEOUT_MS = 600_000;

/**
 * Let the program of `evaluate.scorer` judge the rows: it prints one number from 0 to 1 for each, in order, on a line of its
 * own. A ConfigError names the command, and the row where there is one, when it does anything else.
 */
export async function scoreWithCommand(
  command: readonly string[],
  rows: readonly ScorerRow[],
  { cwd = checkout, timeoutMs = TIMEOUT_MS, cancelSignal }: ScorerOptions = {},
): Promise<number[]> {
  if (rows.length === 0) return [];
  const [program = '', ...args] = command;
  const input = rows.map((row) => `${JSON.stringify(row)}\n`).join('');
  const result = await runProgram(program, args, { cwd, timeoutMs, cancelSignal, input });
  const refuse = (problem: string): never => {
    throw new TemperError('ConfigError', `evaluate.scorer (${command.join(' ')}) ${problem}`);
  };

  const lines = linesOf(result.stdout);
  const failure = failureOf(result, timeoutMs, `for ${lines.length} of ${rows.length} rows a line was printed`);
  if (failure !== undefined) refuse(failure);
  const scores = lines.slice(0, rows.length).map((line, index) => readScore(line) ?? refuse(wrongLine(line, index)));
  if (lines.length < rows.length)
    refuse(`printed ${lines.length} lines for ${rows.length} rows: row ${lines.length + 1} has no score`);
  if (lines.length > rows.length)
    refuse(`printed ${lines.length} lines for ${rows.length} rows: ${show(lines[rows.length])} belongs to no row`);
  return scores;
}

function linesOf(stdout: string): string[] {
  const text = stdout.trimEnd();
  return text === '' ? [] : text.split('\n').map((line) => line.trim());
}

function failureOf(result: ProgramResult, timeoutMs: number, progress: string): string | undefined {
  const { startError, timedOut, exitCode, signal } = result;
  if (startError !== undefined) return `could not be started: ${startError}. Is it installed on the worker's host?`;
  if (timedOut) return `was stopped after ${timeoutMs / 1000} s; ${progress}.${stderrOf(result)}`;
  if (exitCode !== 0) return `ended with ${signal ?? `exit code ${exitCode}`}; ${progress}.${stderrOf(result)}`;
  return undefined;
}

function stderrOf({ stderr }: ProgramResult): string {
  return stderr === '' ? '' : `\n${lastLines(stderr, 10)}`;
}

/** Undefined for what is no decimal number from 0 to 1. */
function readScore(line: string): number | undefined {
  return isNumber(line) && Number(line) >= 0 && Number(line) <= 1 ? Number(line) : undefined;
}

function wrongLine(line: string, index: number): string {
  const problem = isNumber(line) ? 'a score is from 0 to 1' : 'which is not a number';
  return `printed ${show(line)} for row ${index + 1}, ${problem}; it must print one number from 0 to 1 per row and nothing else`;
}

function isNumber(line: string): boolean {
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(line);
}

function show(line = ''): string {
  return JSON.stringify(line.length > 80 ? `${line.slice(0, 80)}…` : line);
}

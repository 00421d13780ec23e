import { describe, expect, test } from '@jest/globals';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runProgram, startDetached } from '../../host/subprocess.ts';
import { eventually, newFolder, runs } from '../fixtures/trainers/stand-in.ts';

const sh = (script: string) => ['-c', script];

test('an exit code is a result, not an error', async () => {
  const result = await runProgram('sh', sh('echo out; echo err >&2; exit 3'));
  expect(result).toEqual({
    ...{ exitCode: 3, signal: undefined, stdout: 'out', stderr: 'err' },
    ...{ startError: undefined, timedOut: false },
  });
});

test('so is the signal that ended a program', async () => {
  expect(await runProgram('sh', sh('kill -KILL $$'))).toMatchObject({ exitCode: undefined, signal: 'SIGKILL' });
});

describe('a program that cannot be started says why, and is no error either', () => {
  const folder = newFolder();
  test.each([
    ['missing', 'no-such-program', 'ENOENT'],
    ['no program', folder, 'EACCES'],
  ])('%s', async (_, file, why) => {
    const result = await runProgram(file, []);
    expect(result.exitCode).toBeUndefined();
    expect(result.startError).toContain(why);
    const withLines = await runProgram(file, [], { onLine: () => {} });
    expect(withLines.startError).toContain(why);
  });
});

test('lines come one by one, the last one even without its end', async () => {
  const lines: string[] = [];
  const onLine = (line: string) => void lines.push(line);
  const result = await runProgram('sh', sh('printf "one\\n\\ntwo\\nth"; printf "ree"; exit 1'), { onLine });
  expect(lines).toEqual(['one', '', 'two', 'three']);
  expect(result.exitCode).toBe(1);
});

test('nobody waits for input, and arguments are never read by a shell', async () => {
  expect((await runProgram('cat', [])).stdout).toBe('');
  expect((await runProgram('echo', ['$HOME; echo `id`'])).stdout).toBe('$HOME; echo `id`');
});

test('what it is given to read comes whole, and it may leave some of it unread', async () => {
  const input = 'line\n'.repeat(200_000);
  expect((await runProgram('wc', ['-l'], { input })).stdout.trim()).toBe('200000');
  expect(await runProgram('head', ['-n', '1'], { input })).toMatchObject({ exitCode: 0, stdout: 'line' });
  expect((await runProgram('no-such-program', [], { input })).startError).toContain('ENOENT');
});

test('the environment given is added to the own', async () => {
  const result = await runProgram('sh', sh('echo "$GREETING ${PATH:+and a path}"'), { env: { GREETING: 'hello' } });
  expect(result.stdout).toBe('hello and a path');
});

test('only the last 40 lines of stderr are kept', async () => {
  const { stderr } = await runProgram('sh', sh('seq 1 100 >&2'));
  expect(stderr.split('\n')).toEqual(Array.from({ length: 40 }, (_, index) => String(index + 61)));
});

describe('whoever is cancelled takes the whole group along', () => {
  const child = (file: string) => `sleep 600 & echo $! > ${file}.tmp; mv ${file}.tmp ${file};`;
  test.concurrent.each([
    ['a program and its child', (file: string) => `${child(file)} wait`],
    [
      'a child whose parent ends at once',
      (file: string) => `trap 'exit 0' TERM; (trap '' TERM; ${child(file)} wait) >/dev/null 2>&1 & wait`,
    ],
    ['a program that ignores SIGTERM', (file: string) => `trap '' TERM; ${child(file)} wait; sleep 600`],
  ])('%s', async (_, script) => {
    const pidFile = join(newFolder(), 'pid');
    const cancel = new AbortController();
    const running = runProgram('sh', sh(script(pidFile)), { cancelSignal: cancel.signal });
    await eventually(() => existsSync(pidFile));
    const reason = new Error('not wanted any more');
    cancel.abort(reason);
    await expect(running).rejects.toBe(reason);
    expect(runs(Number(readFileSync(pidFile, 'utf8')))).toBe(false);
  });
});

test('whoever is cancelled before the start never starts', async () => {
  const file = join(newFolder(), 'started');
  const cancelSignal = AbortSignal.abort(new Error('too late'));
  await expect(runProgram('touch', [file], { cancelSignal })).rejects.toThrow('too late');
  expect(existsSync(file)).toBe(false);
});

test('a program that takes too long is ended, with the child that holds its output open', async () => {
  const result = await runProgram('sh', sh('sleep 600 & wait'), { timeoutMs: 200 });
  expect(result).toMatchObject({ exitCode: undefined, signal: 'SIGTERM', timedOut: true });
});

test('a detached program has its own session and writes to its log, after what is there', async () => {
  const log = join(newFolder(), 'logs/log');
  const session = 'cut -d" " -f1,6 /proc/$$/stat';
  const pid = startDetached('sh', sh(`${session}; echo err >&2`), log);
  await eventually(() => !runs(pid));
  const second = startDetached('sh', sh('echo "$WORD"'), log, { WORD: 'again' });
  await eventually(() => !runs(second));
  expect(readFileSync(log, 'utf8')).toBe(`${pid} ${pid}\nerr\nagain\n`);
});

test('a detached program that is missing is a HostError that names it', () => {
  const start = () => startDetached('no-such-program', [], join(newFolder(), 'log'));
  expect(start).toThrow(expect.objectContaining({ name: 'HostError' }));
  expect(start).toThrow('no-such-program');
});

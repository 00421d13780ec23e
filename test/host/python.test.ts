import { describe, expect, test } from '@jest/globals';
import { existsSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { runPython } from '../../host/python.ts';
import { eventually, newFolder } from '../fixtures/trainers/stand-in.ts';

/** A program on the real protocol; `body` is what its main does with `protocol`. */
function program(body: string): string {
  const file = join(newFolder(), 'program.py');
  const head = [
    'import os, sys, time',
    `sys.path.insert(0, ${JSON.stringify(join(checkout, 'trainer'))})`,
    'from protocol import TemperError, run',
  ];
  const main = ['def main(protocol):', ...body.split('\n').map((line) => `    ${line}`), 'run(main)'];
  writeFileSync(file, [...head, ...main].join('\n'));
  return relative(checkout, file);
}

test('the result line is the result, whatever libraries print', async () => {
  const script = program('print("a warning")\nos.system("echo noise")\nreturn {"rows": 3, "argument": sys.argv[1]}');
  expect(await runPython(script, ['größer'])).toMatchObject({ rows: 3, argument: 'größer' });
});

test('progress comes as it is made', async () => {
  const seen: object[] = [];
  const script = program('protocol.progress(1, 2, "rows")\nprotocol.progress(2, 2, "rows", "done")\nreturn {}');
  await runPython(script, [], {
    onProgress: ({ done, total, unit, message }) => void seen.push({ done, total, unit, message }),
  });
  expect(seen).toEqual([
    { done: 1, total: 2, unit: 'rows', message: undefined },
    { done: 2, total: 2, unit: 'rows', message: 'done' },
  ]);
});

describe('an error keeps its name', () => {
  test.each([
    [
      'raised by name',
      'raise TemperError("DatasetError", "row 3 has no answer", row=3)',
      'DatasetError',
      'row 3 has no answer',
    ],
    [
      'a full disk',
      'raise OSError(28, "No space left on device", "/data/x")',
      'DiskFullError',
      'No space left on device: /data/x',
    ],
    ['anything unexpected', 'raise KeyError("x")', 'TrainerError', 'KeyError'],
    ['no result at all', 'os._exit(0)', 'TrainerError', 'exit code 0 and no result'],
    ['killed', 'os.kill(os.getpid(), 9)', 'TrainerError', 'SIGKILL and no result'],
    [
      'last words without an error line',
      'sys.stderr.write("cannot go on"); sys.stderr.flush(); os._exit(4)',
      'TrainerError',
      'cannot go on',
    ],
  ])('%s', async (_, body, name, words) => {
    await expect(runPython(program(body), [])).rejects.toMatchObject({ name, message: expect.stringContaining(words) });
  });

  test('with its details', async () => {
    const script = program('raise TemperError("DatasetError", "row 3 has no answer", row=3)');
    await expect(runPython(script, [])).rejects.toMatchObject({ details: { row: 3 } });
  });
});

test('a program that is cancelled is ended, and the reason thrown', async () => {
  const started = join(newFolder(), 'started');
  const cancel = new AbortController();
  const running = runPython(program(`open(${JSON.stringify(started)}, "w")\ntime.sleep(600)`), [], {
    cancelSignal: cancel.signal,
  });
  await eventually(() => existsSync(started));
  cancel.abort(new Error('cancelled'));
  await expect(running).rejects.toThrow('cancelled');
});

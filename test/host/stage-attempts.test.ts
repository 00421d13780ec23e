import { expect, test } from '@jest/globals';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendLine } from '../../host/json-lines.ts';
import { identify } from '../../host/process-table.ts';
import { attemptsOfDeadWorkers, noteAttempt, thisWorker, type BegunAttempt } from '../../host/stage-attempts.ts';
import { newRun } from '../fixtures/trainers/stand-in.ts';

test('only attempts without an end, of workers that died on this host, are those of dead workers', async () => {
  const run = newRun();
  const worker = spawn('sleep', ['60']);
  const living = { ...thisWorker(), ...identify(worker.pid ?? 0) };
  const note = (executionId: string, attempt: number, by: BegunAttempt['worker']) => {
    const when = { scheduledAt: '', at: '' };
    noteAttempt(run, { type: 'began', stage: 'train', executionId, attempt, ...when, worker: by, taskToken: 'token' });
  };
  note('one', 1, living);
  note('one', 2, living);
  note('two', 1, living);
  note('elsewhere', 1, { ...living, host: 'another' });
  note('mine', 1, thisWorker());
  noteAttempt(run, { type: 'ended', stage: 'train', executionId: 'one', attempt: 2, how: 'failed', at: '' });
  expect(await attemptsOfDeadWorkers(run)).toEqual([]);

  worker.kill('SIGKILL');
  await once(worker, 'exit');
  const dead = async () => (await attemptsOfDeadWorkers(run)).map((each) => `${each.executionId} ${each.attempt}`);
  expect(await dead()).toEqual(['one 1', 'two 1']);
  noteAttempt(run, { type: 'ended', stage: 'train', executionId: 'two', attempt: 1, how: 'lost', at: '' });
  expect(await dead()).toEqual(['one 1']);
});

test('a disk that cannot take the note is no error of the stage', () => {
  const run = { ...newRun(), stageAttempts: '/proc/no-such-folder/attempts.jsonl' };
  const ended = { type: 'ended', stage: 'train', executionId: '', attempt: 1, how: 'done', at: '' } as const;
  expect(() => appendLine(run.stageAttempts, ended)).toThrow();
  noteAttempt(run, ended);
});

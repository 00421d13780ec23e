import { expect, test } from '@jest/globals';
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { untilOtherHostIsSilent } from '../../host/moved-training.ts';
import { openRunDirectory, type RunDirectory } from '../../host/run-directory.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

/** A run whose training these hosts have worked on, one after the other. */
function runWorkedOnBy(...hosts: string[]): RunDirectory {
  const run = openRunDirectory(newFolder(), 'run');
  mkdirSync(run.train);
  writeFileSync(run.events, '');
  const line = (host: string, attempt: number) =>
    JSON.stringify({ type: 'began', stage: 'trainModel', executionId: 'x', attempt, worker: { host } });
  writeFileSync(run.stageAttempts, hosts.map((host, index) => `${line(host, index + 1)}\n`).join(''));
  return run;
}

async function secondsUntilSilent(run: RunDirectory): Promise<number> {
  const began = Date.now();
  const { signal } = new AbortController();
  await untilOtherHostIsSilent(run, { signal, report: () => {}, silentMs: 400 });
  return (Date.now() - began) / 1000;
}

test('a training that this host has worked on, or nobody, is taken up at once', async () => {
  expect(await secondsUntilSilent(runWorkedOnBy(hostname()))).toBeLessThan(0.3);
  expect(await secondsUntilSilent(runWorkedOnBy('gpu-1', hostname(), hostname()))).toBeLessThan(0.3);
});

test('a training of another host is taken up once nothing of it has been written for a while', async () => {
  const run = runWorkedOnBy('gpu-1', hostname());
  let writes = 0;
  const writing = setInterval(() => {
    if (++writes === 8) clearInterval(writing);
    appendFileSync(run.events, '{}\n');
  }, 100);
  expect(await secondsUntilSilent(run)).toBeGreaterThan(1.1);
});

test('waiting for another host ends with a cancel', async () => {
  const controller = new AbortController();
  const waiting = untilOtherHostIsSilent(runWorkedOnBy('gpu-1', hostname()), {
    ...{ signal: controller.signal, report: () => controller.abort() },
  });
  await expect(waiting).rejects.toThrow(/abort/i);
});

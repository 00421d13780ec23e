import { describe, expect, test } from '@jest/globals';
import stringWidth from 'string-width';
import { stripVTControlCharacters } from 'node:util';
import { drawRun } from '../../../cli/watch/draw-run.ts';
import type { RunSnapshot } from '../../../cli/watch/run-snapshot.ts';
import { stageNames, type StageProgress } from '../../../workflows/progress.ts';

const NOW = Date.parse('2026-01-01T12:00:00Z');
const secondsAgo = (seconds: number) => new Date(NOW - seconds * 1000).toISOString();

const done = ['loadConfig', 'checkEnvironment', 'validateDataset', 'planTraining'];
const stages: StageProgress[] = stageNames.map((stage) => ({
  ...{ stage, state: done.includes(stage) ? 'done' : stage === 'trainModel' ? 'running' : 'waiting' },
  ...(done.includes(stage)
    ? { started: secondsAgo(300), finished: secondsAgo(290) }
    : { started: null, finished: null }),
  ...(stage === 'trainModel' ? { started: secondsAgo(125), attempt: 2 } : { attempt: null }),
  headline: done.includes(stage) ? '验证了五百零八行数据，其中五十二行不参与训练，只用来评判模型' : null,
}));

const training: RunSnapshot = {
  ...{ runName: 'cards', status: 'RUNNING', startedAt: secondsAgo(300), closedAt: null },
  progress: { runName: 'cards', stages },
  activity: {
    ...{ name: 'trainModel', attempt: 2, worker: '17@gpu1' },
    heartbeat: {
      ...{ phase: 'training', step: 120, maxSteps: 500, loss: 0.51234, losses: [4, 3, 2, 1], secondsPerStep: 4.1 },
      ...{ etaSeconds: 1558, checkpointStep: 100, memoryReservedBytes: 18 * 1024 ** 3 },
      gpus: [{ index: 0, usedMemoryBytes: 19 * 1024 ** 3, totalMemoryBytes: 24 * 1024 ** 3, utilization: 0.97 }],
    },
  },
  notices: [{ kind: 'warning', text: 'attempt 1 failed: The trainer died: it was killed by SIGKILL.' }],
  ...{ result: null, failure: null },
};

function draw(snapshot: RunSnapshot, columns = 100, rows = 40): string[] {
  return drawRun(snapshot, { columns, rows, now: NOW }).map((line) => stripVTControlCharacters(line));
}

test('a training shows its stages, where it is, how the loss went and what is left', () => {
  const lines = draw(training);
  expect(lines[0]).toBe('cards  running for 5 min on gpu1');
  expect(lines).toContain('▶ trainModel        2 min 5 s    attempt 2  ');
  expect(lines.find((line) => line.includes('step 120'))).toMatch(/━{6}─{18} step 120 of 500, 24 %$/);
  expect(lines).toContain('    loss 0.512  █▆▃▁');
  expect(lines.find((line) => line.includes('a step'))).toMatch(
    /4\.1 s a step · 25 min 58 s left, until .*\d\d:\d\d · checkpoint at step 100$/,
  );
  expect(lines).toContain('    18 GiB reserved · GPU 0: 19 GiB of 24 GiB, 97 %');
  expect(lines.at(-1)).toBe('! attempt 1 failed: The trainer died: it was killed by SIGKILL.');
});

describe('in a terminal', () => {
  test.each([24, 40, 60, 80, 120])('of %i columns no line of the stages is wider', (columns) => {
    const lines = drawRun({ ...training, notices: [] }, { columns, rows: 40, now: NOW });
    for (const line of lines) expect(stringWidth(line)).toBeLessThanOrEqual(columns);
  });

  test.each([6, 10, 14, 24])('of %i rows all fits, and what goes on now is seen', (rows) => {
    const lines = draw(training, 100, rows);
    expect(lines.length).toBeLessThan(rows);
    expect(lines.join('\n')).toContain('GPU 0');
    expect(lines.at(-1)).toMatch(/^! attempt 1 failed/);
  });
});

test('what it waits for and how to end that is printed whole, however narrow', () => {
  const text = `waits for approval: temporal workflow update execute --workflow-id cards --name approve --input '{"by":"…"}'`;
  expect(draw({ ...training, notices: [{ kind: 'waits', text }] }, 40).at(-1)).toBe(`⏸ ${text}`);
});

test('while the server is away the last that was known stays, and that it is away is said', () => {
  const lines = drawRun(training, { columns: 100, rows: 40, now: NOW, outage: '14 UNAVAILABLE: refused' });
  expect(lines.join('\n')).toContain('the server does not answer, asking again: 14 UNAVAILABLE: refused');
  expect(lines.join('\n')).toContain('step 120');
});

test('a failed run ends with its reason and where to read on', () => {
  const failed = {
    ...training,
    status: 'FAILED',
    closedAt: secondsAgo(0),
    activity: null,
    failure: 'The disk is full.',
  };
  expect(draw({ ...failed, notices: [] }).slice(-2)).toEqual([
    'The disk is full.',
    'Its report: npx temper report cards',
  ]);
  expect(draw({ ...failed, notices: [] })[0]).toBe('cards  failed after 5 min');
});

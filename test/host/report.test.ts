import { expect, test } from '@jest/globals';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { writeReport } from '../../host/report.ts';
import { writeJson } from '../../host/state-file.ts';
import { newRun } from '../fixtures/trainers/stand-in.ts';

const stages = [
  {
    stage: 'trainModel',
    state: 'done',
    started: '2026-01-01T00:00:00Z',
    finished: '2026-01-01T00:01:30Z',
    attempt: 2,
    headline: '4 of 4 steps',
  },
  {
    stage: 'deployModel',
    state: 'skipped',
    started: null,
    finished: null,
    attempt: null,
    headline: 'deploy.enabled is false',
  },
];

test('a run that has only begun has a report, too', async () => {
  const page = await report({ outcome: 'failed' });
  expect(page).toContain('<td>trainModel</td><td>done</td><td>90.0</td><td>2</td><td>4 of 4 steps</td>');
  expect(page).toContain('deploy.enabled is false');
  expect(page).not.toContain('<svg');
});

test('it shows the losses, the scores and the answers, and opens offline', async () => {
  const losses = [3, 1].map((loss, index) =>
    JSON.stringify({ type: 'step', step: index + 1, loss, maxSteps: 2, time: 1 }),
  );
  const score = { rows: 1, exactMatch: 0.5, similarity: 0.75, latencyP50Ms: null };
  const row = { question: '<image>Which number?', expected: 'ABC-12', base: 'ABD-12', candidate: 'ABC-12' };
  const page = await report({ outcome: 'deployed' }, losses, { scores: { base: score }, rows: [row] });
  expect(page).toContain('Loss over 2 steps');
  expect(page).toMatch(/<polyline [^>]*points="40\.0,40\.0 860\.0,220\.0"/);
  expect(page).toContain('50.0 %');
  expect(page).toContain('<td>Which number?</td><td>ABC-12</td><td>ABD-12</td>');
  expect(page).not.toMatch(/(src|href)="?http/);
});

test('nothing that a model answers can run in it', async () => {
  const hostile = '<script>alert(1)</script>"';
  const row = { question: hostile, expected: hostile, base: hostile, candidate: hostile };
  const page = await report({ outcome: hostile, runName: hostile }, [], { scores: {}, rows: [row] });
  expect(page).not.toContain('<script>');
  expect(page).toContain('&lt;script&gt;alert(1)&lt;/script&gt;&quot;');
});

async function report(
  manifest: { outcome: string; runName?: string },
  events: string[] = [],
  evaluation?: object,
): Promise<string> {
  const run = newRun();
  mkdirSync(run.train, { recursive: true });
  writeFileSync(run.events, events.map((line) => `${line}\n`).join(''));
  if (evaluation !== undefined) await writeJson(run.evaluation, evaluation);
  await writeReport(run, { manifest: { runName: 'run', finishedAt: '2026-01-01T00:02:00Z', ...manifest }, stages });
  return readFileSync(run.report, 'utf8');
}

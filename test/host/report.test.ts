import { expect, test } from '@jest/globals';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { judge } from '../../host/judging/gates.ts';
import { pairedBootstrap } from '../../host/judging/paired-bootstrap.ts';
import { writeReport, type EvaluatedRow, type Evaluation } from '../../host/report.ts';
import { scoreRows } from '../../host/judging/scoring.ts';
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
  const page = await report({ outcome: 'deployed' }, losses, evaluationOf(row, 'ABD-12', null));
  expect(page).toContain('Loss over 2 steps');
  expect(page).toMatch(/<polyline [^>]*points="40\.0,40\.0 860\.0,220\.0"/);
  expect(page).toContain('<th>score: exact match</th>');
  expect(page).toContain('<td>base</td><td>1</td><td>0.000</td><td>0.0 %</td><td>0.833</td><td></td><td>5 ms</td>');
  expect(page).toContain('<td>candidate</td><td>1</td><td>1.000</td><td>100.0 %</td>');
  expect(page).toContain('<td>Which number?</td><td>ABC-12</td><td>ABD-12</td><td>ABC-12</td>');
  expect(page).toContain('<small class="passed">passed</small> maxRegression: no champion to compare with');
  expect(page).not.toContain('champion</t');
  expect(page).not.toMatch(/(src|href)="?http/);
});

test('it shows the champion, how the candidate compares with it and what the gates say', async () => {
  const page = await report({ outcome: 'finished' }, [], evaluationOf(row, null, 'ABC-12', 'ABD-12'));
  expect(page).not.toContain('<td>base</td>');
  expect(page).toContain('<td>champion</td><td>1</td><td>1.000</td>');
  expect(page).toContain('<th>candidate</th><th>champion</th>');
  expect(page).toContain('<td>ABD-12</td><td>ABC-12</td>');
  expect(page).toContain(
    'better on 0, worse on 1, the same on 0 of 1 rows; mean difference -1.0000 (95 % interval -1.0000 to -1.0000, not distinguishable from none; paired bootstrap, 10000 resamples)',
  );
  expect(page).toContain(
    `<small class="failed">failed</small> maxRegression: its mean score is 1 below the champion's on the same 1 rows`,
  );
});

test('of JSON answers it shows each field', async () => {
  const expected = '{"name": "Ada", "items": [{"price": 1}, {"price": 2}]}';
  const answer = '{"name": "Ada", "items": [{"price": 1}]}';
  const page = await report({ outcome: 'deployed' }, [], evaluationOf({ ...row, expected }, '', null, answer));
  expect(page).toContain('<th>field</th><th>base</th><th>candidate</th>');
  expect(page).toContain('<td>name</td><td>0.0 %</td><td>100.0 %</td>');
  expect(page).toContain('<td>items[].price</td><td>0.0 %</td><td>50.0 %</td>');
});

test('an evaluation from before there were verdicts is left out', async () => {
  const page = await report({ outcome: 'failed' }, [], { scores: { base: { rows: 1, similarity: 1 } }, rows: [] });
  expect(page).toContain('Manifest');
  expect(page).not.toContain('Held-out rows');
});

test('nothing that a model answers can run in it', async () => {
  const hostile = '<script>alert(1)</script>"';
  const asked = { question: hostile, images: [], expected: JSON.stringify({ [hostile]: hostile }) };
  const page = await report({ outcome: hostile, runName: hostile }, [], evaluationOf(asked, hostile, hostile, hostile));
  expect(page).not.toContain('<script>');
  expect(page).toContain('&lt;script&gt;alert(1)&lt;/script&gt;&quot;');
});

const row = { question: '<image>Which number?', images: ['/card.png'], expected: 'ABC-12' };

/** What is written about one row, judged by the default gate. */
function evaluationOf(
  asked: Pick<EvaluatedRow, 'question' | 'images' | 'expected'>,
  base: string | null,
  champion: string | null,
  candidate = asked.expected,
): Evaluation {
  const score = (answer: string) => scoreRows([{ answer, expected: asked.expected, latencyMs: 5 }], 'exact');
  const scores = {
    base: base === null ? null : score(base),
    candidate: score(candidate),
    champion: champion === null ? null : score(champion),
  };
  const comparison =
    scores.champion === null ? null : pairedBootstrap([scores.candidate.score], [scores.champion.score]);
  const verdict = judge(
    { maxRegression: 0.02 },
    { ...scores.candidate, memoryBytes: null },
    scores.champion,
    comparison,
  );
  return { scores, comparison, verdict, rows: [{ ...asked, base, candidate, champion }] };
}

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

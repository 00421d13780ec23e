import { beforeEach, describe, expect, test } from '@jest/globals';
import { appendFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { appendLine } from '../../../host/json-lines.ts';
import { thisWorker, type StageAttempt } from '../../../host/stage-attempts.ts';
import { renderReport, writeReport } from '../../../host/report/render-report.ts';
import type { RunDirectory } from '../../../host/run-directory.ts';
import { writeJson } from '../../../host/state-file.ts';
import { newFolder } from '../../fixtures/trainers/stand-in.ts';
import {
  beginRun,
  endRun,
  finishedAt,
  leaveDataset,
  leaveEvaluation,
  leaveEvents,
  leaveMerge,
  leavePlan,
  picture,
  resumedTraining,
  stage,
  startedAt,
} from '../../support/reported-run.ts';

let home: string;
let run: RunDirectory;

beforeEach(async () => {
  home = newFolder();
  run = await beginRun(home);
});

const render = async () => textOf(await renderReport(run));

describe('a finished run', () => {
  test('has every section, in the order of its links', async () => {
    await leavePlan(run, 'H100');
    await leaveDataset(run);
    await leaveMerge(run, 30);
    await leaveEvaluation(run, [{ expected: 'A', candidate: 'A', champion: 'B', images: [picture] }]);
    leaveEvents(run, resumedTraining(50, 20));
    await endRun(run, 'deployed', [stage({}), stage({ stage: 'deployModel', headline: 'chat page http://host' })]);
    const page = await renderReport(run);
    const ids = ['stages', 'curves', 'evaluation', 'dataset', 'plan', 'time', 'merge', 'deployment', 'manifest'];
    expect([...page.matchAll(/<section id="(\w+)"/g)].map(([, id]) => id)).toEqual(ids);
    expect([...page.matchAll(/<a href="#(\w+)">/g)].map(([, id]) => id)).toEqual(ids);
    expect(page).not.toContain('could not be read');
    expect([...page.matchAll(/<h([1-6])/g)].map(([, level]) => Number(level)).every(risesByOne)).toBe(true);
  });

  test('asks the network for nothing and stays below a megabyte', async () => {
    leaveEvents(run, resumedTraining(50, 20));
    await endRun(run, 'finished');
    const page = await renderReport(run);
    expect(page.replaceAll(/<script>[\s\S]*?<\/script>/g, '')).not.toMatch(/(src|href)="?(https?:)?\/\//);
    expect(page).toContain('Licensed to the Apache Software Foundation');
    expect(page.length).toBeLessThan(1_000_000);
  });

  test('says what the plan is good for, and how its prediction compares with what was measured', async () => {
    await leavePlan(run, 'H100');
    leaveEvents(run, resumedTraining(50, 20));
    const page = await render();
    expect(page).toMatch(/16 × 1 rows on 1 GPU, bf16/);
    expect(page).toMatch(
      /LLaMA-Factory's usual 1 × 16 rows with gradient checkpointing, which would take \d\d times as long a step/,
    );
    expect(page).toMatch(/seconds a step, median \| 0\.\d+ \| 1\.00/);
    expect(page).toMatch(/peak memory a GPU, reserved by PyTorch \| [\d.]+ GiB ± 15 % \| 16 GiB/);
    expect(page).toContain('bf16 | true | plan | compute capability 9 computes in bf16');
  });

  test('says what resumes threw away, and where the time went', async () => {
    leaveEvents(run, resumedTraining(50, 20));
    const page = await render();
    expect(page).toContain(
      'It was resumed once, after step 20; 3 steps had been made past the checkpoint and were made again.',
    );
    expect(page).toContain('The evaluation loss was 0.1 at the end and lowest after step 50 with 0.1.');
    expect(page).toContain('50 steps count, 3 were made again or lost.');
    expect(page).toContain('resume after step 20');
  });

  test('says how long a stage took with all its attempts', async () => {
    note({ type: 'began', at: '2026-01-01T00:00:10.000Z' });
    note({ type: 'ended', how: 'failed', error: 'TrainerError', at: '2026-01-01T00:00:40.000Z' });
    note({ type: 'began', attempt: 2, at: '2026-01-01T00:00:50.000Z' });
    note({ type: 'ended', attempt: 2, how: 'done', at: '2026-01-01T00:01:30.000Z' });
    await endRun(run, 'finished', [stage({ started: '2026-01-01T00:00:50.000Z' })]);
    expect(await render()).toContain('trainModel | done | 1 min 20 s | 2');
  });

  test('names of the merge audit the totals and the tensors that lie furthest off, not all', async () => {
    await leaveMerge(run, 500);
    const page = await render();
    expect(page).toContain('500 of 500 tensors, rounded once to fp16');
    expect(page).toContain('Subnormal: 124,750 (24.9 % of all values)');
    expect(page).toContain('layers.499.mlp.down_proj.weight | 0 | 0 | 0 | 499 | 49.9 %');
    expect(page).not.toContain('layers.480.mlp');
  });

  test('that was rejected says why at its top', async () => {
    const why = 'failed minScore: its exact match is 0.5, below the 1 that is wanted';
    await endRun(run, 'rejected', [stage({}), stage({ stage: 'deployModel', state: 'skipped', headline: why })]);
    const page = await render();
    expect(page.indexOf(why)).toBeGreaterThan(page.indexOf('first rejected'));
    expect(page.indexOf(why)).toBeLessThan(page.indexOf('Stages'));
  });
});

describe('a failed run', () => {
  const message = 'GPU 0 has 4 GiB free and 9 are wanted.\nFree them: kill 12';

  test('leads with what failed, what to do and where the logs are', async () => {
    note({ type: 'began' });
    note({ type: 'ended', how: 'failed', error: 'HostError', headline: message });
    writeFileSync(run.trainerLog, 'Traceback\nRuntimeError: no room\n');
    await endRun(run, 'failed', [stage({ state: 'failed', headline: message })]);
    const page = await render();
    expect(page).toMatch(/first failed .*What failed/s);
    expect(page.indexOf('What failed trainModel failed (HostError): GPU 0 has 4 GiB')).toBeGreaterThan(0);
    expect(page).toContain(
      'What to do: Run the command that the message gives, start the run again under the same name',
    );
    expect(page).toContain(run.trainerLog);
    expect(page).toContain('RuntimeError: no room');
    expect(page).not.toContain('Loss and evaluation');
  });

  test('before there is anything in its directory but one attempt has a report, too', async () => {
    for (const file of [run.run, run.train, run.merged, run.dataset]) rmSync(file, { recursive: true });
    note({ type: 'began', stage: 'loadConfig' });
    note({
      type: 'ended',
      stage: 'loadConfig',
      how: 'failed',
      error: 'ConfigError',
      headline: 'train.lora_rnk: unknown',
    });
    const page = await render();
    expect(page).toContain('loadConfig failed (ConfigError): train.lora_rnk: unknown');
    expect(page).toContain('Nobody wrote its end down');
    expect(page.length).toBeLessThan(20_000);
  });
});

describe('a run without an end', () => {
  test('is under way while its worker lives', async () => {
    note({ type: 'began', stage: 'validateDataset' });
    note({ type: 'ended', stage: 'validateDataset', how: 'done', headline: '10 rows' });
    note({ type: 'began' });
    const page = await render();
    expect(page).toMatch(/first running Started 2026-01-01 00:00:00 UTC, under way: trainModel; as of 20/);
    expect(page).toMatch(/validateDataset \| done \| .* \| 1 \| 10 rows/);
  });

  test('is broken off once its worker is gone', async () => {
    note({ type: 'began', worker: { ...thisWorker(), pid: 2 ** 22 + 1 } });
    expect(await render()).toContain('first broken off');
  });

  test('that was started again is not shown as it ended before', async () => {
    await endRun(run, 'failed', [stage({ state: 'failed', headline: 'old' })]);
    await writeJson(run.run, { startedAt: '2026-02-01T00:00:00.000Z' });
    note({ type: 'began', at: '2026-02-01T00:00:01.000Z' });
    const page = await render();
    expect(page).toContain('first running');
    expect(page).not.toContain('old');
  });
});

describe('what is damaged becomes a sentence in its own section', () => {
  test.each([
    ['evaluation', () => run.evaluation, '{"scores": {"ba', 'Candidate against champion'],
    ['dataset report', () => run.datasetReport, '[', 'Rows, tokens and pictures'],
    ['dataset report of another form', () => run.datasetReport, '{"tokens": {"min": 1}}', 'Rows, tokens and pictures'],
    ['merge audit', () => run.mergeAudit, '{}', 'Merge audit'],
    ['evaluation of another form', () => run.evaluation, '{"verdict": {}, "scores": {}}', 'Candidate against champion'],
    ['deployment', () => run.deployment, 'null,', 'Deployment'],
    ['run record', () => run.run, '{', 'Plan and what it saved'],
    ['manifest', () => run.manifest, '', 'Manifest'],
  ])('%s', async (_, path, text, title) => {
    leaveEvents(run, resumedTraining(50, 20));
    await endRun(run, 'finished');
    writeFileSync(path(), text);
    const page = await render();
    expect(page).toMatch(new RegExp(`${title} This part could not be read, so it is left out: `));
    expect(page).toContain('50 of 50 steps; the loss went from');
  });

  test('half-written and foreign lines in the events are passed over, and losses that are no number are gaps', async () => {
    leaveEvents(run, [...resumedTraining(50, 20), { type: 'step', step: 51, loss: null, maxSteps: 52, time: 9_000 }]);
    appendFileSync(run.events, '{"type":"step","step":52,"loss":NaN}\nnull\n{"type":"step","st');
    const page = await render();
    expect(page).toContain('1 step had a loss that is no finite number.');
    expect(page).toContain('51 of 52 steps; the loss went from');
  });

  test('records of before there were verdicts, picture sizes or stages in the directory', async () => {
    await writeJson(run.evaluation, { scores: { base: { rows: 1, similarity: 1 }, candidate: {} }, rows: [] });
    await writeJson(run.datasetReport, {
      ...{ rows: 2, tokens: null },
      pictures: { count: 2, distinct: 1, widths: [256, 256], heights: [64, 64], medianPixels: 16384 },
    });
    await writeJson(run.manifest, { runName: 'first', outcome: 'finished', finishedAt });
    const page = await render();
    expect(page).toContain('2 pictures, 1 of them distinct, 256 pixels wide and 64 high');
    expect(page).not.toContain('Candidate against');
    expect(page).not.toContain('could not be read');
  });
});

test('nothing that a model answers, or a file is called, can run in the page or end its data', async () => {
  const hostile = '</script><!--<script>alert(1)</script>"\'&';
  await leaveEvaluation(run, [
    { question: hostile, expected: hostile, candidate: hostile, base: 'x', images: [hostile] },
  ]);
  await writeJson(run.datasetReport, {
    rows: 1,
    problemKinds: [{ code: hostile, severity: hostile, count: 1 }],
    tokens: { total: 1, cutRows: 0, histogram: [{ from: hostile, to: 2, rows: 1 }] },
  });
  await writeJson(run.deployment, { name: hostile, apiUrl: 'javascript:alert(1)', pageUrl: `http://${hostile}` });
  await endRun(run, hostile, [stage({ stage: hostile, state: hostile, headline: hostile })]);
  const page = await renderReport(run);
  expect(page).not.toContain('<script>alert');
  expect(page).not.toContain('href="javascript');
  expect(page.match(/<script[ >]/g)).toHaveLength(4);
  expect(page.match(/<\/script>/g)).toHaveLength(4);
  expect(page).not.toContain('<!--');
  const [, data = ''] = /id="chart-data">(.*?)<\/script>/s.exec(page) ?? [];
  expect(data).toContain('\\u003c/script>\\u003c!--');
  expect(JSON.parse(data)).toMatchObject({ tokens: { bars: [{ label: `${hostile}–2` }] } });
});

test('a training of 100,000 steps, twice resumed, is a page below a megabyte within seconds', async () => {
  const half = resumedTraining(100_000, 50_000);
  const again = half.slice(-50_000).map((event) => ({ ...event, time: (event as { time: number }).time + 70_000 }));
  leaveEvents(run, [...half, { type: 'started', attempt: 3, pid: 3, resumedAtStep: 75_000, time: 200_000 }, ...again]);
  await endRun(run, 'finished');
  const began = performance.now();
  await writeReport(run);
  expect(performance.now() - began).toBeLessThan(20_000);
  expect(statSync(run.report).size).toBeLessThan(1_000_000);
});

/** Write a line of stage-attempts.jsonl. */
function note(line: Partial<StageAttempt> & { type: StageAttempt['type'] }): void {
  const who = { stage: 'trainModel', executionId: 'one', attempt: 1, at: startedAt };
  const began = { scheduledAt: startedAt, worker: thisWorker(), taskToken: `${line.stage}` };
  appendLine(join(dirname(run.run), 'stage-attempts.jsonl'), {
    ...who,
    ...(line.type === 'began' ? began : {}),
    ...line,
  });
}

function risesByOne(level: number, index: number, levels: number[]): boolean {
  return index === 0 ? level === 1 : level <= (levels[index - 1] ?? 0) + 1;
}

/** What a reader sees: cells of a row with bars between them, `name: value` of facts. */
function textOf(page: string): string {
  return page
    .replaceAll(/<(script|style)[\s\S]*?<\/\1>/g, '')
    .replaceAll(/<nav[\s\S]*?<\/nav>/g, '')
    .replaceAll('</td><td', '</td> | <td')
    .replaceAll(/<\/dt><dd>/g, ': ')
    .replaceAll(/<[^>]*>/g, ' ')
    .replaceAll('&#39;', "'")
    .replaceAll('&quot;', '"')
    .replaceAll('&lt;', '<')
    .replaceAll('&amp;', '&')
    .replaceAll(/\s+/g, ' ')
    .replaceAll(' : ', ': ');
}

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { factsFor } from '../../bench/plans.ts';
import { checkout } from '../../host/checkout.ts';
import type { EvaluatedRow, Evaluation } from '../../host/judging/evaluation.ts';
import { judge } from '../../host/judging/gates.ts';
import { pairedBootstrap } from '../../host/judging/paired-bootstrap.ts';
import { rowScores, scoreRows } from '../../host/judging/scoring.ts';
import { makePlan } from '../../host/planning/plan.ts';
import type { ReportStage } from '../../host/report/run-state.ts';
import { openRunDirectory, type RunDirectory } from '../../host/run-directory.ts';
import { writeJson } from '../../host/state-file.ts';
import { qwen3VL } from './planning.ts';

export const startedAt = '2026-01-01T00:00:00.000Z';
export const finishedAt = '2026-01-01T01:00:00.000Z';

/** A picture that is in the repository. */
export const picture = join(checkout, 'test/fixtures/picture.png');

export type Answers = Pick<EvaluatedRow, 'expected' | 'candidate'> &
  Partial<Pick<EvaluatedRow, 'question' | 'images' | 'base' | 'champion'>>;

/** A run directory with its record alone. */
export async function beginRun(home: string, name = 'first'): Promise<RunDirectory> {
  const run = openRunDirectory(home, name);
  for (const folder of [run.train, run.merged, run.dataset]) mkdirSync(folder, { recursive: true });
  await writeJson(run.run, { runName: name, startedAt, config: { deploy: { name: 'cards' }, train: {} } });
  return run;
}

/** How it ended, as `recordRun` writes it. */
export async function endRun(run: RunDirectory, outcome: string, stages: ReportStage[] = [stage({})]): Promise<void> {
  const config = { name: 'cards', digest: 'c0f1' };
  await writeJson(run.manifest, { runName: 'first', outcome, finishedAt, config, stages });
}

export function stage(change: Partial<ReportStage>): ReportStage {
  return {
    ...{ stage: 'trainModel', state: 'done', started: startedAt, finished: '2026-01-01T00:01:30.000Z' },
    ...{ attempt: 2, headline: '4 of 4 steps' },
    ...change,
  };
}

/** `train/events.jsonl` with these lines. */
export function leaveEvents(run: RunDirectory, events: object[]): void {
  writeFileSync(run.events, events.map((event) => `${JSON.stringify(event)}\n`).join(''));
}

/** A training of so many steps, a second each, that was killed after `resumedAtStep` + 3 and resumed; with evaluations. */
export function resumedTraining(steps: number, resumedAtStep: number): object[] {
  const step = (number: number, time: number) => ({
    ...{ type: 'step', step: number, loss: 4 * Math.exp(-number / 30) + 0.2 + 0.1 * Math.sin(number * 7), time },
    ...{ learningRate: 1e-4 * (1 - number / steps), maxSteps: steps, secondsPerStep: 1, memoryReservedBytes: 2 ** 34 },
  });
  const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
  const made = (from: number, to: number, time: number) =>
    range(from, to).flatMap((number): object[] => [
      step(number, time + number - from),
      ...(number % 10 === 0
        ? [{ type: 'evaluation', atStep: number, evalLoss: 5 / number, time: time + number - from }]
        : []),
      ...(number % 10 === 0
        ? [{ type: 'checkpoint', checkpoint: '', atStep: number, sizeBytes: 1, time: time + number - from }]
        : []),
    ]);
  const start = (attempt: number, from: number, time: number) => [
    { type: 'started', attempt, pid: attempt, resumedFrom: null, resumedAtStep: from, time },
    { type: 'phase', phase: 'importing', time: time + 1 },
    { type: 'phase', phase: 'training', time: time + 9 },
  ];
  const second = 1_000 + resumedAtStep + 60;
  return [
    ...start(1, 0, 1_000),
    ...made(1, resumedAtStep + 3, 1_010),
    ...start(2, resumedAtStep, second),
    ...made(resumedAtStep + 1, steps, second + 10),
    { type: 'finished', atStep: steps, maxSteps: steps, stopped: false, adapter: '', time: second + 12 + steps },
  ];
}

/** `dataset/report.json` with pictures of many sizes. */
export async function leaveDataset(run: RunDirectory): Promise<void> {
  const histogram = Array.from({ length: 20 }, (_, index) => ({
    ...{ from: 100 + index * 50, to: 149 + index * 50 },
    rows: Math.round(400 * Math.exp(-((index - 6) ** 2) / 18)),
  }));
  const sizes = [640, 800, 1024, 1280, 1920].flatMap((width, index): [number, number, number][] => [
    [width, Math.round(width * 0.75), 300 - 50 * index],
    [Math.round(width * 0.6), width, 90],
  ]);
  await writeJson(run.datasetReport, {
    ...{ rows: 2_400, kept: 2_390, trainRows: 2_150, heldOutRows: 240, evalRows: 0 },
    problemKinds: [{ code: 'picture-unreadable', severity: 'error', count: 10 }],
    tokens: {
      ...{
        min: 100,
        median: 430,
        p95: 800,
        max: 1_099,
        total: 1_030_000,
        mean: 431,
        answers: 40_000,
        pictures: 600_000,
      },
      ...{ cutoffLen: 1_024, cutRows: 3, suggestedCutoffLen: 1_152, shortestPrompt: 80, histogram, lengths: [] },
    },
    pictures: {
      ...{ count: 1_450, distinct: 1_449, decoded: 1_450, widths: [384, 1_920], heights: [480, 1_920] },
      ...{ medianPixels: 480_000, sizes },
    },
  });
}

/** `plan` of `run.json`, as a GPU of this name would be planned for, and what the host said of itself. */
export async function leavePlan(run: RunDirectory, card: string): Promise<void> {
  const facts = factsFor(card, 1, qwen3VL('4b'), 'lora');
  const plan = { ...makePlan(facts), training: {}, continuedFrom: null, shape: facts.shape, rows: facts.rows };
  await writeJson(run.run, { runName: 'first', startedAt, config: { deploy: { name: 'cards' }, train: {} }, plan });
  await writeJson(run.environment, { gpus: facts.gpus });
}

/** `merged/merge.json` of so many tensors; in the last ones subnormal values. */
export async function leaveMerge(run: RunDirectory, count: number): Promise<void> {
  const tensors = Object.fromEntries(
    Array.from({ length: count }, (_, index) => [
      `model.language_model.layers.${index}.mlp.down_proj.weight`,
      { values: 1_000, overflow: 0, underflow: 0, subnormal: index, nonFinite: 0, changed: 1_000 - index },
    ]),
  );
  await writeJson(run.mergeAudit, {
    ...{
      dtype: 'fp16',
      tensors: count,
      merged: count,
      bytes: 2 ** 30,
      seconds: 3,
      device: 'cpu',
      peakRssBytes: 2 ** 29,
    },
    ...{ overflow: 0, underflow: 0, subnormal: (count * (count - 1)) / 2, nonFinite: 0, changed: 900 * count },
    shards: [{ file: 'model.safetensors', tensors }],
  });
}

/** `evaluation.json` of these answers, judged by the default gate. */
export async function leaveEvaluation(run: RunDirectory, answers: Answers[]): Promise<void> {
  await writeJson(run.evaluation, evaluationOf(answers));
}

export function evaluationOf(answers: Answers[]): Evaluation {
  const rows = answers.map((each): EvaluatedRow => ({
    ...{ question: '<image>Which number?', images: ['/card.png'], base: null, champion: null },
    ...each,
  }));
  const answered = (model: 'base' | 'candidate' | 'champion') =>
    rows.every((row) => row[model] !== null)
      ? rows.map((row) => ({ answer: row[model] ?? '', expected: row.expected, latencyMs: 5 }))
      : null;
  const score = (model: 'base' | 'candidate' | 'champion') => {
    const given = answered(model);
    return given === null ? null : scoreRows(given, 'exact');
  };
  const candidate = scoreRows(answered('candidate') ?? [], 'exact');
  const champion = score('champion');
  const comparison =
    champion === null
      ? null
      : pairedBootstrap(
          rowScores(answered('candidate') ?? [], 'exact'),
          rowScores(answered('champion') ?? [], 'exact'),
        );
  const verdict = judge({ maxRegression: 0.02 }, { ...candidate, memoryBytes: null }, champion, comparison);
  return { scores: { base: score('base'), candidate, champion }, comparison, verdict, rows };
}

import type { Verdict } from './judging/gates.ts';
import { describeInterval, type PairedBootstrap } from './judging/paired-bootstrap.ts';
import type { RunDirectory } from './run-directory.ts';
import { metricNames, type Score } from './judging/scoring.ts';
import { readJson, writeWhole } from './state-file.ts';
import { lossCurve, readEvents } from './training-events.ts';

export interface ReportStage {
  stage: string;
  state: string;
  started: string | null;
  finished: string | null;
  attempt: number | null;
  headline: string | null;
}

interface ReportContent {
  manifest: { runName: string; outcome: string; finishedAt: string };
  stages: ReportStage[];
}

/** `evaluation.json`. */
export interface Evaluation {
  scores: { base: Score | null; candidate: Score; champion: Score | null };
  /** The candidate against the champion. */
  comparison: PairedBootstrap | null;
  verdict: Verdict;
  rows: EvaluatedRow[];
}

/** A held-out row and what each model answered; null for a model that was not asked. */
export interface EvaluatedRow {
  question: string;
  /** Absolute paths. */
  images: string[];
  expected: string;
  base: string | null;
  candidate: string;
  champion: string | null;
}

/** Write `report.html`: one page with all its parts inside, that opens offline. */
export async function writeReport(run: RunDirectory, { manifest, stages }: ReportContent): Promise<void> {
  const curve = lossCurve(await readEvents(run.events));
  const evaluation = await readJson<Evaluation>(run.evaluation); // one from before there were verdicts is left out
  const sections = [
    `<h1>${escape(manifest.runName)} <small class="${escape(manifest.outcome)}">${escape(manifest.outcome)}</small></h1>`,
    `<p>${escape(manifest.finishedAt)}</p>`,
    section('Stages', table(['stage', 'state', 'seconds', 'attempt', 'result'], stages.map(stageRow))),
    curve.length > 1 ? section(`Loss over ${curve.length} steps`, lossChart(curve)) : '',
    evaluation?.verdict === undefined ? '' : section('Held-out rows', evaluationOf(evaluation)),
    section('Manifest', `<pre>${escape(JSON.stringify(manifest, null, 2))}</pre>`),
  ];
  const page = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(manifest.runName)} · Temper</title><style>${STYLE}</style></head>
<body>${sections.join('\n')}</body></html>
`;
  await writeWhole(run.report, page);
}

const STYLE = `body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2330}
table{border-collapse:collapse;width:100%;display:block;overflow-x:auto}td,th{text-align:left;padding:.3rem .7rem;border-bottom:1px solid #dde2ea;vertical-align:top}
small{font-size:1rem;padding:.1rem .6rem;border-radius:1rem;background:#dde2ea}small.deployed,small.finished,small.passed{background:#cdeed6}small.failed{background:#f7d0d0}
pre{background:#f4f6f9;padding:1rem;overflow-x:auto}svg{width:100%;height:auto}`;

function section(title: string, body: string): string {
  return `<h2>${escape(title)}</h2>\n${body}`;
}

function stageRow({ stage, state, started, finished, attempt, headline }: ReportStage): string[] {
  const seconds =
    started === null || finished === null ? '' : ((Date.parse(finished) - Date.parse(started)) / 1000).toFixed(1);
  return [stage, state, seconds, String(attempt ?? ''), headline ?? ''];
}

function evaluationOf(evaluation: Evaluation): string {
  const { comparison, verdict } = evaluation;
  return [
    scoreTable(evaluation),
    fieldTable(evaluation),
    comparison === null ? '' : `<p>${escape(compared(comparison))}</p>`,
    `<ul>${verdict.checks.map(gateItem).join('')}</ul>`,
    answerTable(evaluation),
  ].join('\n');
}

function gateItem({ gate, passed, sentence }: Verdict['checks'][number]): string {
  const outcome = passed ? 'passed' : 'failed';
  return `<li><small class="${outcome}">${outcome}</small> ${escape(`${gate}: ${sentence}`)}</li>`;
}

function compared(comparison: PairedBootstrap): string {
  const { meanDifference, rows, wins, losses, ties, resamples } = comparison;
  const difference = `${meanDifference < 0 ? '' : '+'}${meanDifference.toFixed(4)}`;
  return `Candidate against champion: better on ${wins}, worse on ${losses}, the same on ${ties} of ${rows} rows; mean difference ${difference} (${describeInterval(comparison)}; paired bootstrap, ${resamples} resamples).`;
}

function scoreTable({ scores }: Evaluation): string {
  const rows = askedModels(scores).map(([model, score]) => [
    model,
    String(score.rows),
    score.score.toFixed(3),
    percent(score.exactMatch),
    score.anls.toFixed(3),
    score.fields === null ? '' : percent(score.fields.accuracy),
    milliseconds(score.latencyP50Ms),
    milliseconds(score.latencyP95Ms),
  ]);
  const metric = `score: ${metricNames[scores.candidate.metric]}`;
  return table(['model', 'rows', metric, 'exact match', 'ANLS', 'fields', 'median latency', '95 % within'], rows);
}

function fieldTable({ scores }: Evaluation): string {
  const models = askedModels(scores);
  const names = Object.keys(scores.candidate.fields?.byField ?? {});
  if (names.length === 0) return '';
  const rows = names.map((name) => [
    name,
    ...models.map(([, { fields }]) => percent((fields?.byField ?? {})[name] ?? 0)),
  ]);
  return table(['field', ...models.map(([model]) => model)], rows);
}

function askedModels(scores: Evaluation['scores']): [string, Score][] {
  return Object.entries(scores).filter((entry): entry is [string, Score] => entry[1] !== null);
}

function answerTable({ rows, scores }: Evaluation): string {
  const models = askedModels(scores).map(([model]) => model as keyof Evaluation['scores']);
  const shown = rows
    .slice(0, 50)
    .map((row) => [row.question.replaceAll('<image>', ''), row.expected, ...models.map((model) => row[model] ?? '')]);
  return table(['question', 'expected', ...models], shown);
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

function milliseconds(latencyMs: number | null): string {
  return latencyMs === null ? '' : `${latencyMs.toFixed(0)} ms`;
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${escape(cell)}</${tag}>`).join('')}</tr>`;
  return `<table>${line(head, 'th')}${rows.map((row) => line(row, 'td')).join('')}</table>`;
}

/** The loss of each optimizer step as an SVG line, the highest and lowest values named. */
function lossChart(curve: { step: number; loss: number | null }[]): string {
  const points = curve.flatMap(({ step, loss }) => (loss === null ? [] : [{ step, loss }]));
  const [width, height, margin] = [900, 260, 40];
  const steps = points.map((point) => point.step);
  const losses = points.map((point) => point.loss);
  const [minStep, maxStep] = [Math.min(...steps), Math.max(...steps)];
  const [minLoss, maxLoss] = [Math.min(...losses), Math.max(...losses)];
  const x = (step: number) => margin + ((step - minStep) / Math.max(1, maxStep - minStep)) * (width - 2 * margin);
  const y = (loss: number) =>
    height - margin - ((loss - minLoss) / Math.max(1e-9, maxLoss - minLoss)) * (height - 2 * margin);
  const line = points.map(({ step, loss }) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(' ');
  const label = (text: string, left: number, top: number) =>
    `<text x="${left}" y="${top}" font-size="12" fill="#5a6472">${text}</text>`;
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="loss per step">
<polyline fill="none" stroke="#2f6fde" stroke-width="1.5" points="${line}"/>
${label(maxLoss.toPrecision(3), 2, y(maxLoss) + 4)}${label(minLoss.toPrecision(3), 2, y(minLoss) + 4)}
${label(`step ${minStep}`, x(minStep), height - 12)}${label(`step ${maxStep}`, x(maxStep) - 50, height - 12)}</svg>`;
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}

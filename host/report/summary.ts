import { durationText } from '../duration.ts';
import { percent } from '../goodput/text.ts';
import type { Evaluation } from '../judging/evaluation.ts';
import { metricNames, type Score } from '../judging/scoring.ts';
import { readJson } from '../state-file.ts';
import { badge, markup, type Content, type Markup } from './markup.ts';
import type { ReportSource } from './section.ts';
import { trainingCurve } from './training-curve.ts';

interface Figure {
  name: string;
  value: string;
  /** What it is to be seen beside. */
  beside: Content;
}

/** The top of the page: how the run stands, and the figures that one looks for first; those that can't be read are left out. */
export async function summary(source: ReportSource): Promise<Markup> {
  const { state, runName } = source;
  const makers = [scoreFigure, lossFigure, timeFigure, goodputFigure, servedFigure];
  const figures = await Promise.all(makers.map((make) => make(source).catch(() => undefined)));
  const known = figures.filter((figure) => figure !== undefined);
  return markup`<h1>${runName} ${badge(state.outcome)}</h1>
<p class="when">${when(source)}</p>
${state.outcome === 'rejected' || state.outcome === 'rolledBack' ? why(source) : null}
<dl class="figures">${known.map(({ name, value, beside }) => markup`<div><dt>${name}</dt><dd>${value}${beside ? markup`<small>${beside}</small>` : null}</dd></div>\n`)}</dl>`;
}

function when({ state, now }: ReportSource): string {
  const { startedAt, finishedAt, outcome } = state;
  const began = startedAt === null ? '' : `Started ${timeText(startedAt)}`;
  if (finishedAt !== null) return `${began === '' ? 'Ended' : `${began}, ended`} ${timeText(finishedAt)}.`;
  const stage = state.stages.findLast((each) => each.state === 'running')?.stage;
  if (outcome === 'running')
    return `${began === '' ? 'Under way' : `${began}, under way`}${stage === undefined ? '' : `: ${stage}`}; as of ${timeText(now.toISOString())}.`;
  return `${began === '' ? '' : `${began}. `}Nobody wrote its end down; this is what its directory says.`;
}

function timeText(iso: string): string {
  return `${iso.slice(0, 19).replace('T', ' ')} UTC`;
}

function why({ state: { stages, outcome } }: ReportSource): Content {
  const headline = stages.find(({ stage }) => stage === 'deployModel')?.headline;
  return headline == null
    ? null
    : markup`<p class="lead">${outcome === 'rejected' ? 'Not taken: ' : ''}${headline}</p>`;
}

async function scoreFigure({ run }: ReportSource): Promise<Figure | undefined> {
  const scores = (await readJson<Evaluation>(run.evaluation))?.scores;
  if (scores === undefined || scores.candidate.rows === 0) return undefined;
  const text = ({ score }: Score) => percent(score);
  const others = [
    scores.champion && `champion ${text(scores.champion)}`,
    scores.base && `base ${text(scores.base)}`,
    `${metricNames[scores.candidate.metric]}, ${scores.candidate.rows} rows`,
  ];
  return { name: 'Score', value: text(scores.candidate), beside: lines(others) };
}

async function lossFigure({ events }: ReportSource): Promise<Figure | undefined> {
  const { smoothed, evalLoss, steps } = trainingCurve(await events());
  const loss = smoothed.at(-1)?.[1];
  if (loss == null) return undefined;
  const evaluated = evalLoss.findLast(([, value]) => value !== null)?.[1];
  const others = [evaluated == null ? null : `evaluation ${evaluated.toPrecision(3)}`, `after ${steps} steps`];
  return { name: 'Loss', value: loss.toPrecision(3), beside: lines(others) };
}

async function timeFigure({ state, now, goodput }: ReportSource): Promise<Figure | undefined> {
  const { startedAt, finishedAt, outcome } = state;
  if (startedAt === null || (finishedAt === null && outcome !== 'running')) return undefined;
  const seconds = ((finishedAt === null ? now.getTime() : Date.parse(finishedAt)) - Date.parse(startedAt)) / 1000;
  const trained = await goodput().catch(() => undefined);
  const beside = trained === undefined ? null : `training ${durationText(trained.wallSeconds)} of it`;
  return { name: 'Time', value: durationText(seconds), beside };
}

async function goodputFigure({ goodput }: ReportSource): Promise<Figure | undefined> {
  const found = await goodput();
  if (found?.goodput == null) return undefined;
  const resumes = found.startUps.filter(({ isResume }) => isResume).length;
  const others = [
    'of the training in steps that count',
    resumes === 0 ? null : `${resumes} resume${resumes === 1 ? '' : 's'}, ${found.repeatedSteps} steps made again`,
  ];
  return { name: 'Goodput', value: percent(found.goodput), beside: lines(others) };
}

async function servedFigure({ run, state }: ReportSource): Promise<Figure | undefined> {
  const record = await readJson<{ name?: string; pageUrl?: string | null }>(run.deployment);
  if (record?.name === undefined || state.outcome !== 'deployed') return undefined;
  const { pageUrl } = record;
  const beside = pageUrl && /^https?:/.test(pageUrl) ? markup`<a href="${pageUrl}">${pageUrl}</a>` : null;
  return { name: 'Deployed as', value: record.name, beside };
}

function lines(parts: (string | null)[]): Content {
  return parts
    .filter((part) => part !== null && part !== '')
    .map((part, index) => (index === 0 ? part : markup`<br>${part}`));
}

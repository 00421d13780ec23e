import { percent } from '../goodput/text.ts';
import type { Evaluation, JudgedModel } from '../judging/evaluation.ts';
import { describeInterval, type PairedBootstrap } from '../judging/paired-bootstrap.ts';
import { metricNames, type Score } from '../judging/scoring.ts';
import { readJson } from '../state-file.ts';
import { answersTable } from './answers-table.ts';
import { badge, markup, table, type Content } from './markup.ts';
import type { Section } from './section.ts';

export const evaluation: Section = {
  id: 'evaluation',
  title: 'Candidate against champion',
  make: async ({ run }) => {
    const record = await readJson<Evaluation & { championProblem?: string | null }>(run.evaluation);
    if (record?.verdict === undefined) return undefined; // none, or one from before there were verdicts
    const { scores, comparison, verdict, championProblem } = record;
    return {
      title: scores.champion ? 'Candidate against champion' : scores.base ? 'Candidate against base' : 'Candidate',
      body: markup`${scoreTable(scores)}
${against(scores, comparison, championProblem ?? null)}
<ul class="gates">${verdict.checks.map(({ gate, passed, sentence }) => markup`<li>${badge(passed ? 'passed' : 'failed')} <b>${gate}</b>: ${sentence}</li>\n`)}</ul>
${fieldTable(scores)}
${await answersTable(record)}`,
    };
  },
};

function against(scores: Evaluation['scores'], comparison: PairedBootstrap | null, problem: string | null): Content {
  if (comparison === null)
    return markup`<p>${problem === null ? 'No champion was in service to compare with.' : `The champion could not be asked: ${problem}`}</p>`;
  const { meanDifference, rows, wins, losses, ties, resamples } = comparison;
  const difference = `${meanDifference < 0 ? '' : '+'}${meanDifference.toFixed(4)}`;
  return markup`<p>Candidate against ${scores.champion === null ? 'nobody' : 'champion'}: better on ${wins}, worse on ${losses}, the same on ${ties} of ${rows} rows; mean difference ${difference} (${describeInterval(comparison)}; paired bootstrap, ${resamples} resamples).</p>`;
}

function scoreTable(scores: Evaluation['scores']): Content {
  const rows = askedModels(scores).map(([model, score]) => [
    model,
    score.rows,
    score.score.toFixed(3),
    percent(score.exactMatch),
    score.anls.toFixed(3),
    score.fields === null ? '' : percent(score.fields.accuracy),
    milliseconds(score.latencyP50Ms),
    milliseconds(score.latencyP95Ms),
  ]);
  const metric = `score: ${metricNames[scores.candidate.metric]}`;
  const head = ['model', 'rows', metric, 'exact match', 'ANLS', 'fields', 'median latency', '95 % within'];
  return table(head, rows, { numeric: (column) => column > 0 });
}

function fieldTable(scores: Evaluation['scores']): Content {
  const models = askedModels(scores);
  const names = Object.keys(scores.candidate.fields?.byField ?? {});
  if (names.length === 0) return null;
  const rows = names.map((name) => [
    name,
    ...models.map(([, { fields }]) => percent((fields?.byField ?? {})[name] ?? 0)),
  ]);
  return table(['field', ...models.map(([model]) => model)], rows, { numeric: (column) => column > 0 });
}

function askedModels(scores: Evaluation['scores']): [JudgedModel, Score][] {
  return Object.entries(scores).filter((entry): entry is [JudgedModel, Score] => entry[1] !== null);
}

function milliseconds(latencyMs: number | null): string {
  return latencyMs === null ? '' : `${latencyMs.toFixed(0)} ms`;
}

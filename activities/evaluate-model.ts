import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ResolvedConfig } from '../configs/schema.ts';
import { makeBaseOverlay } from '../host/base-overlay.ts';
import { askAll, type TimedAnswer } from '../host/judging/ask-all.ts';
import { discardCandidate, restoreChampionOf, startCandidate, type Candidate } from '../host/deployment/candidates.ts';
import { questionOf, type ChatRow } from '../host/chat-api.ts';
import { lockDeployment, type Deployment, type GoldenQuestion } from '../host/deployment/deployments.ts';
import { digestOfValue } from '../host/digest.ts';
import { messageOf } from '../host/errors.ts';
import { judge, type Verdict } from '../host/judging/gates.ts';
import { healthFacts } from '../host/deployment/health.ts';
import { apiKeyOf } from '../host/deployment/serving-options.ts';
import type { Model, Place } from '../host/deployment/model-server.ts';
import { scoreWithCommand } from '../host/judging/own-scorer.ts';
import { pairedBootstrap, type PairedBootstrap } from '../host/judging/paired-bootstrap.ts';
import type { Placement } from '../host/deployment/placement.ts';
import type { EvaluatedRow, Evaluation } from '../host/judging/evaluation.ts';
import { rowScores, scoreRows, type AnsweredRow, type Score } from '../host/judging/scoring.ts';
import { readJson, writeJson } from '../host/state-file.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { ServableModel } from './merge-adapter.ts';
import { modelOf, placeOf } from './served-model.ts';
import type { StageContext, StageResult } from './stage.ts';
import type { ValidateDatasetResult } from './validate-dataset.ts';

export interface EvaluateModelInput {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  dataset: ValidateDatasetResult;
  /** Stands for the base's weights and config, so that its answers are asked for once. */
  baseDigest: string;
  model: ServableModel;
}

export interface EvaluateModelResult extends StageResult {
  /** `base` is null when no rows are held out, `champion` also when nothing is in service. */
  scores: { base: Score | null; candidate: Score; champion: Score | null };
  /** Candidate − champion on the same rows. */
  comparison: PairedBootstrap | null;
  verdict: Verdict;
}

/** `evaluation.json`. */
interface EvaluationRecord extends Evaluation {
  result: EvaluateModelResult;
  /** What was judged: a second attempt at the same model returns the first one's result. */
  modelDigest: string;
  /** Asked again while the model is watched in service; null when no row was answered right. */
  golden: GoldenQuestion | null;
  placement: Placement;
  memoryBytes: number | null;
  /** Why the champion could not be compared with, if it could not. */
  championProblem: string | null;
}

/**
 * Ask candidate, champion and base the held-out rows through the API that serves them, and judge the candidate by its gates.
 * A candidate that passed and waits for nobody is left serving, for deployModel to swap in.
 */
export async function evaluateModel(input: EvaluateModelInput, context: StageContext): Promise<EvaluateModelResult> {
  const place = placeOf(input.config, context);
  return lockDeployment(place, context, async () => {
    const champion = await restoreChampionOf(place.home, place.name);
    if (champion?.champion.modelDigest === input.model.modelDigest) {
      const before = await readJson<EvaluationRecord>(context.run.evaluation);
      if (before?.modelDigest === input.model.modelDigest) return before.result;
    }
    return evaluate(input, place, champion, context);
  });
}

async function evaluate(
  input: EvaluateModelInput,
  place: Place,
  champion: Deployment | undefined,
  context: StageContext,
): Promise<EvaluateModelResult> {
  const { config, model } = input;
  const rows = (await readRows(context.run.heldOut)).slice(0, config.evaluate.maxRows);
  const hasRows = rows.length > 0;
  const championAsked = champion && hasRows ? await championAnswers(rows, input, champion, context) : null;
  const baseAsked = hasRows ? await baseAnswers(rows, input, place, context) : null;
  const candidate = await startCandidate(modelOf(input, context.runName), place, candidateOptions(config, context));
  try {
    const answers = await askModel(rows, 'candidate', candidate, config, context);
    const memoryBytes =
      (await healthFacts(candidate.server.url, candidate.serving, context.signal))?.peakMemoryBytes ?? null;
    const scored = await Promise.all(
      [baseAsked, answers, championAsked?.answers ?? null].map((asked) => score(rows, asked, config, context)),
    );
    const [base, own, champions] = scored as [Scored | null, Scored, Scored | null];
    const comparison = champions === null ? null : pairedBootstrap(own.rowScores, champions.rowScores);
    const verdict = judge(
      config.evaluate.gates,
      { ...own.total, memoryBytes },
      champions?.total ?? null,
      comparison,
      championAsked?.problem ?? null,
    );
    const scores = { base: base?.total ?? null, candidate: own.total, champion: champions?.total ?? null };
    const result = { scores, comparison, verdict, headline: headlineOf(scores, comparison, verdict) };
    const record: EvaluationRecord = {
      ...{ scores, comparison, verdict, result, memoryBytes, modelDigest: model.modelDigest },
      placement: candidate.placement,
      championProblem: championAsked?.problem ?? null,
      golden: goldenOf(rows, own),
      rows: rows.map((row, index) => evaluatedRow(row, index, [base, own, champions])),
    };
    await writeJson(context.run.evaluation, record);
    const isSwappedInNext = config.deploy.enabled && verdict.passed && config.deploy.approval === 'none';
    if (!isSwappedInNext) await discardCandidate(candidate);
    return result;
  } catch (error) {
    await discardCandidate(candidate);
    throw error;
  }
}

function candidateOptions({ deploy }: ResolvedConfig, { signal, report }: StageContext) {
  return { placement: deploy.placement, signal, report };
}

/** The champion's answers, asked for before it may have to make room; one that can't answer is no standard to keep to. */
async function championAnswers(
  rows: ChatRow[],
  { config, dataset }: EvaluateModelInput,
  { champion }: Deployment,
  context: StageContext,
): Promise<{ answers: TimedAnswer[] | null; problem: string | null }> {
  const { server, modelDigest, serving } = champion;
  if (server === null) return { answers: null, problem: 'it does not serve' };
  const { maxNewTokens } = config.evaluate;
  const key = { modelDigest, serving, maxNewTokens, dataset: dataset.digest, rows: rows.length };
  try {
    const ask = () => askModel(rows, 'champion', { ...champion, server }, config, context);
    return { answers: await onceAsked(key, context, ask), problem: null };
  } catch (error) {
    context.signal.throwIfAborted();
    return { answers: null, problem: messageOf(error) };
  }
}

/** The base's answers to these rows, kept for the next run of the same base on the same rows. */
async function baseAnswers(
  rows: ChatRow[],
  input: EvaluateModelInput,
  place: Place,
  context: StageContext,
): Promise<TimedAnswer[]> {
  const { config, environment, dataset, baseDigest } = input;
  const { precision } = environment;
  const model = { modelDir: config.train.model_name_or_path, modelDigest: baseDigest };
  const served: Model = modelOf({ ...input, model }, context.runName);
  const key = { baseDigest, precision, serving: served.serving, dataset: dataset.digest, rows: rows.length };
  return onceAsked(key, context, async () => {
    const dtype = precision === 'fp16' ? 'float16' : 'bfloat16';
    const modelDir = await makeBaseOverlay(served.modelDir, join(context.run.path, 'base-served'), dtype);
    const base = await startCandidate({ ...served, modelDir }, place, candidateOptions(config, context));
    try {
      return await askModel(rows, 'base', base, config, context);
    } finally {
      await discardCandidate(base);
    }
  });
}

async function onceAsked(
  key: Record<string, unknown>,
  { settings }: StageContext,
  work: () => Promise<TimedAnswer[]>,
): Promise<TimedAnswer[]> {
  const file = join(settings.home, 'cache/answers', `${digestOfValue(key)}.json`);
  const known = await readJson<TimedAnswer[]>(file);
  if (known !== undefined) return known;
  const answers = await work();
  await writeJson(file, answers);
  return answers;
}

function askModel(
  rows: ChatRow[],
  who: 'base' | 'candidate' | 'champion',
  { server, place, serving }: Pick<Candidate, 'server' | 'place' | 'serving'>,
  { evaluate: { maxNewTokens } }: ResolvedConfig,
  { report, signal }: StageContext,
): Promise<TimedAnswer[]> {
  const apiKey = apiKeyOf(serving);
  return askAll(
    rows.map((row) => questionOf(row).question),
    { who, apiUrl: server.url, model: place.name, maxTokens: maxNewTokens, apiKey, signal },
    (done) => report({ asking: who, done, total: rows.length }),
  );
}

interface Scored {
  total: Score;
  rowScores: number[];
  answers: string[];
}

async function score(
  rows: ChatRow[],
  answers: TimedAnswer[] | null,
  { evaluate }: ResolvedConfig,
  { signal }: StageContext,
): Promise<Scored | null> {
  if (answers === null) return null;
  const answered = rows.map((row, index): AnsweredRow & { row: ChatRow } => {
    const { text, latencyMs } = answers[index] as TimedAnswer;
    return { row, expected: questionOf(row).expected, answer: text, latencyMs };
  });
  const metric = evaluate.scorer === undefined ? evaluate.metric : 'own';
  if (evaluate.scorer !== undefined) {
    const asked = answered.map(({ row, expected, answer }) => ({ ...shownQuestion(row), expected, answer }));
    const own = await scoreWithCommand(evaluate.scorer, asked, { cancelSignal: signal });
    answered.forEach((each, index) => Object.assign(each, { own: own[index] }));
  }
  return {
    total: scoreRows(answered, metric),
    rowScores: rowScores(answered, metric),
    answers: answers.map(({ text }) => text),
  };
}

/** The first row that the candidate answered right: asked again in service, it must get the same answer. */
function goldenOf(rows: ChatRow[], { rowScores: scores, answers }: Scored): GoldenQuestion | null {
  const right = scores.indexOf(1);
  const row = rows[right];
  return row === undefined ? null : { ...questionOf(row).question, answer: answers[right] ?? '' };
}

function evaluatedRow(
  row: ChatRow,
  index: number,
  [base, candidate, champion]: [Scored | null, Scored, Scored | null],
): EvaluatedRow {
  return {
    ...shownQuestion(row),
    expected: questionOf(row).expected,
    base: base?.answers[index] ?? null,
    candidate: candidate.answers[index] ?? '',
    champion: champion?.answers[index] ?? null,
    scores: {
      base: base?.rowScores[index] ?? null,
      candidate: candidate.rowScores[index] ?? null,
      champion: champion?.rowScores[index] ?? null,
    },
  };
}

function shownQuestion(row: ChatRow): { question: string; images: string[] } {
  return { question: questionOf(row).question.messages.at(-1)?.content ?? '', images: row.images ?? [] };
}

function headlineOf(
  { base, candidate, champion }: EvaluateModelResult['scores'],
  comparison: PairedBootstrap | null,
  verdict: Verdict,
): string {
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  if (base === null) return `it answers; no rows are held out${verdict.passed ? '' : `; ${verdict.headline}`}`;
  const gain = `${percent(base.score)} → ${percent(candidate.score)} on ${candidate.rows} held-out rows`;
  const against =
    champion === null || comparison === null
      ? ''
      : `; champion ${percent(champion.score)}, difference ${percent(comparison.low)} to ${percent(comparison.high)}`;
  return `${gain}${against}${verdict.passed ? '' : `; ${verdict.headline}`}`;
}

async function readRows(file: string): Promise<ChatRow[]> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return ''; // none are held out
    throw error;
  });
  return text.split('\n').flatMap((line) => (line.trim() === '' ? [] : [JSON.parse(line) as ChatRow]));
}

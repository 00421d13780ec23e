import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ResolvedConfig } from '../configs/schema.ts';
import { makeBaseOverlay } from '../host/base-overlay.ts';
import { ask, questionOf, type ChatRow } from '../host/chat-api.ts';
import { digestOfValue } from '../host/digest.ts';
import { TemperError } from '../host/errors.ts';
import { matches, percentile, similarity } from '../host/scoring.ts';
import { startApi, stopServed } from '../host/served-model.ts';
import { servingOptions } from '../host/serving-options.ts';
import { readJson, writeJson } from '../host/state-file.ts';
import type { CheckEnvironmentResult } from './check-environment.ts';
import type { DeployModelResult } from './deploy-model.ts';
import type { ServableModel } from './merge-adapter.ts';
import type { StageContext, StageResult } from './stage.ts';
import type { ValidateDatasetResult } from './validate-dataset.ts';

export interface EvaluateModelInput {
  config: ResolvedConfig;
  environment: CheckEnvironmentResult;
  dataset: ValidateDatasetResult;
  /** Stands for the base's weights and config, so that its answers are asked for once. */
  baseDigest: string;
  model: ServableModel;
  /** Where the fine-tuned model is served; null serves it for the evaluation alone. */
  deployment: DeployModelResult | null;
}

/** Figures over the held-out rows; shares from 0 to 1, latencies in milliseconds. */
export interface Score {
  rows: number;
  exactMatch: number;
  similarity: number;
  latencyP50Ms: number | null;
  latencyP95Ms: number | null;
}

export interface EvaluateModelResult extends StageResult {
  scores: { base: Score; candidate: Score };
}

/** One row of `evaluation.json`. */
export interface JudgedRow {
  question: string;
  images: string[];
  expected: string;
  base: string;
  candidate: string;
}

const PARALLEL_REQUESTS = 4;

/** Ask base and fine-tuned model the held-out rows through the API that serves them, and score both. */
export async function evaluateModel(input: EvaluateModelInput, context: StageContext): Promise<EvaluateModelResult> {
  const { config, deployment, model } = input;
  const rows = (await readRows(context.run.heldOut)).slice(0, config.evaluate.maxRows);
  const candidate =
    deployment === null
      ? await whileServed(model.modelDir, 'candidate', input, context, (apiUrl) =>
          askAll(rows, 'candidate', apiUrl, config, context),
        )
      : await askAll(rows, deployment.name, deployment.apiUrl, config, context);
  const base = await baseAnswers(rows, input, context);

  const scores = { base: score(rows, base, config), candidate: score(rows, candidate, config) };
  const judged = rows.map((row, index): JudgedRow => {
    const { question, expected } = questionOf(row);
    const images = row.images ?? [];
    return {
      question: question.messages.at(-1)?.content ?? '',
      images,
      expected,
      base: base[index]?.text ?? '',
      candidate: candidate[index]?.text ?? '',
    };
  });
  await writeJson(context.run.evaluation, { scores, rows: judged });
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  const headline = `exact match ${percent(scores.base.exactMatch)} → ${percent(scores.candidate.exactMatch)} on ${rows.length} held-out rows`;
  return { scores, headline };
}

interface TimedAnswer {
  text: string;
  latencyMs: number;
}

/** The base's answers to these rows, kept for the next run of the same base on the same rows. */
async function baseAnswers(rows: ChatRow[], input: EvaluateModelInput, context: StageContext): Promise<TimedAnswer[]> {
  const { config, environment, dataset, baseDigest } = input;
  const key = digestOfValue({
    baseDigest,
    dataset: dataset.digest,
    rows: rows.length,
    serving: servingOptions(config),
    precision: environment.precision,
  });
  const file = join(context.settings.home, 'cache/base-answers', `${key}.json`);
  const known = await readJson<TimedAnswer[]>(file);
  if (known !== undefined) return known;
  const base = String(config.train.model_name_or_path);
  const dtype = environment.precision === 'fp16' ? 'float16' : 'bfloat16';
  const folder = await makeBaseOverlay(base, join(context.run.path, 'base-served'), dtype);
  const answers = await whileServed(folder, 'base', input, context, (apiUrl) =>
    askAll(rows, 'base', apiUrl, config, context),
  );
  await writeJson(file, answers);
  return answers;
}

/** Serve a model on a private port just for `work`. */
async function whileServed<T>(
  modelDir: string,
  name: string,
  { config }: EvaluateModelInput,
  context: StageContext,
  work: (apiUrl: string) => Promise<T>,
): Promise<T> {
  context.report({ message: `starting the API of the ${name}` });
  const folder = join(context.run.path, 'evaluation', name);
  const options = { ...servingOptions(config), apiKeyEnv: undefined };
  const api = await startApi({
    ...options,
    modelDir,
    name,
    host: '127.0.0.1',
    port: 0,
    folder,
    signal: context.signal,
  });
  try {
    return await work(api.url);
  } finally {
    await stopServed(api);
  }
}

async function askAll(
  rows: ChatRow[],
  name: string,
  apiUrl: string,
  config: ResolvedConfig,
  { report, signal }: StageContext,
): Promise<TimedAnswer[]> {
  const { apiKeyEnv } = config.deploy;
  const apiKey = apiKeyEnv === undefined ? undefined : process.env[apiKeyEnv];
  const answers: TimedAnswer[] = [];
  let next = 0;
  let done = 0;
  const askOneByOne = async () => {
    for (let index = next++; index < rows.length; index = next++) {
      const row = rows[index] as ChatRow;
      answers[index] = await ask(questionOf(row).question, {
        apiUrl,
        model: name,
        maxTokens: config.evaluate.maxNewTokens,
        apiKey,
        signal,
      });
      report({ asking: name, done: ++done, total: rows.length });
    }
  };
  await Promise.all(Array.from({ length: PARALLEL_REQUESTS }, askOneByOne)).catch((error: unknown) => {
    signal.throwIfAborted();
    throw new TemperError('DeploymentError', `${name} could not answer a held-out row: ${String(error)}`, {
      cause: error,
    });
  });
  return answers;
}

function score(rows: ChatRow[], answers: TimedAnswer[], { evaluate }: ResolvedConfig): Score {
  const expected = rows.map((row) => questionOf(row).expected);
  const share = (measure: (answer: string, wanted: string) => number) =>
    answers.reduce((sum, { text }, index) => sum + measure(text, expected[index] ?? ''), 0) / Math.max(1, rows.length);
  const latencies = answers.map((answer) => answer.latencyMs);
  return {
    rows: rows.length,
    exactMatch: share((answer, wanted) => (matches(answer, wanted, evaluate.metric) ? 1 : 0)),
    similarity: share(similarity),
    latencyP50Ms: percentile(latencies, 0.5),
    latencyP95Ms: percentile(latencies, 0.95),
  };
}

async function readRows(file: string): Promise<ChatRow[]> {
  const text = await readFile(file, 'utf8');
  return text.split('\n').flatMap((line) => (line.trim() === '' ? [] : [JSON.parse(line) as ChatRow]));
}

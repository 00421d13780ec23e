/**
 * What a swap costs those who are asking meanwhile: clients that always have a question about a picture in flight at the
 * stable address, half of them streaming, while one model after the other takes the champion's place and two are rolled back.
 * Real servers, the demo's tiny model, the CPU. Prints one table; everything it started is gone at the end.
 *
 *   node dist/bench/swaps.js [--runtime docker] [--clients 20] [--image qwen3-vl-webui:latest]
 */
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { ask, questionOf, type ChatRow } from '../host/chat-api.ts';
import { checkout } from '../host/checkout.ts';
import { discardCandidate, listCandidates } from '../host/deployment/candidates.ts';
import {
  recordedDeployments,
  stopDeployment,
  type Deployment,
  type GoldenQuestion,
  type Release,
} from '../host/deployment/deployments.ts';
import { putIntoService } from '../host/deployment/put-into-service.ts';
import { askHttp } from '../host/http.ts';
import { percentile } from '../host/judging/scoring.ts';
import { SwapClients, type Asked } from './swap-clients.ts';

interface Change {
  placement: 'beside' | 'in-place';
  /** Whether the model is to be found unwell while it is watched. */
  isUndone: boolean;
}

interface Timed extends Change {
  began: number;
  ended: number;
}

const NAME = 'cards';
const QUESTIONS = 30;
const BAKE_SECONDS = 5;
/** Undisturbed, before each change. */
const QUIET_MS = 15_000;

const changes: Change[] = [
  { placement: 'beside', isUndone: false },
  { placement: 'in-place', isUndone: false },
  { placement: 'beside', isUndone: true },
  { placement: 'beside', isUndone: false },
  { placement: 'in-place', isUndone: false },
  { placement: 'in-place', isUndone: true },
  { placement: 'beside', isUndone: false },
];

const { values } = parseArgs({
  options: {
    runtime: { type: 'string', default: 'process' },
    clients: { type: 'string', default: '20' },
    image: { type: 'string', default: 'qwen3-vl-webui:latest' },
  },
});
const { runtime, clients: clientCount, image } = values;
if (runtime !== 'process' && runtime !== 'docker') throw new Error('--runtime takes process or docker');
const interrupted = new AbortController();
process.once('SIGINT', () => interrupted.abort(new Error('interrupted')));

const home = await mkdtemp(join(tmpdir(), 'temper-swaps-'));
try {
  await measure();
} finally {
  for (const candidate of await listCandidates(home)) await discardCandidate(candidate);
  for (const deployment of await recordedDeployments(home)) await stopDeployment(deployment);
  await rm(home, { recursive: true });
}

async function measure(): Promise<void> {
  const { api } = await putInPlace(await releaseOf('run-0', null), changes[0] as Change);
  const questions = await goldenQuestions(api.url);
  const clients = new SwapClients({ apiUrl: api.url, model: NAME, questions, count: Number(clientCount) });
  const timed = await makeChanges(api.url, questions[0] as GoldenQuestion).catch(async (error: unknown) => {
    await clients.finish();
    throw error;
  });
  const asked = await clients.finish();
  console.log(table(timed, asked));
  const problems = new Set(asked.flatMap(({ problem }) => problem ?? []));
  for (const problem of problems) progress(`failed: ${problem}`);
  if (problems.size > 0) process.exitCode = 1;
}

async function makeChanges(apiUrl: string, golden: GoldenQuestion): Promise<Timed[]> {
  const timed: Timed[] = [];
  let champion = 'run-0';
  for (const [index, change] of changes.entries()) {
    await sleep(QUIET_MS, undefined, { signal: interrupted.signal });
    const runName = `run-${index + 1}`;
    const began = Date.now();
    await putInPlace(
      await releaseOf(runName, change.isUndone ? { ...golden, answer: 'something else' } : golden),
      change,
    );
    timed.push({ ...change, began, ended: Date.now() });
    if (!change.isUndone) champion = runName;
    await requireServing(apiUrl, champion);
  }
  return timed;
}

/** Questions about cards, with what the tiny model answers when nothing disturbs it. */
async function goldenQuestions(apiUrl: string): Promise<GoldenQuestion[]> {
  const folder = join(checkout, 'demo/cards');
  const rows = JSON.parse(await readFile(join(folder, 'cards.json'), 'utf8')) as ChatRow[];
  const golden: GoldenQuestion[] = [];
  for (const { messages, images = [] } of rows.slice(0, QUESTIONS)) {
    const { question } = questionOf({ messages, images: images.map((name) => join(folder, name)) });
    golden.push({ ...question, answer: (await ask(question, { apiUrl, model: NAME })).text });
  }
  return golden;
}

async function releaseOf(runName: string, golden: Release['golden']): Promise<Release> {
  const modelDir = join(home, 'models', runName);
  await cp(join(checkout, 'demo/tiny-qwen3-vl'), modelDir, { recursive: true });
  return {
    ...{ runName, modelDir, modelDigest: Buffer.from(runName).toString('hex').padEnd(64, '0'), golden },
    serving: { template: 'qwen3_vl_nothink', maxNewTokens: 16, cpu: true },
    place: { home, name: NAME, runtime: runtime === 'docker' ? 'docker' : 'process', image },
  };
}

/** Put a model into service; throws unless that ends as it has to. */
async function putInPlace(release: Release, { placement, isUndone }: Change): Promise<Deployment> {
  const { runName } = release;
  const result = await putIntoService(release, {
    ...{ id: runName, workflowId: runName, placement, bakeSeconds: BAKE_SECONDS, record: {} },
    address: { host: '127.0.0.1', apiPort: 0, pagePort: 0 },
    signal: interrupted.signal,
    isUnwanted: () => interrupted.signal.aborted,
    report: ({ message }) => progress(`${runName}: ${String(message)}`),
  });
  const why = result.outcome === 'rolledBack' ? result.why : 'it was well';
  if (result.deployment === null || (result.outcome === 'rolledBack') !== isUndone)
    throw new Error(`${runName}: ${why}`);
  return result.deployment;
}

async function requireServing(apiUrl: string, runName: string): Promise<void> {
  const { run } = JSON.parse((await askHttp(`${apiUrl}/health`)).body) as { run: string };
  if (run !== runName) throw new Error(`${run} serves, and should be ${runName}`);
}

/** A line a change: latencies in the quiet before it, and of all requests that were in flight during it. */
function table(timed: Timed[], asked: Asked[]): string {
  const head = [
    'change | candidate | seconds | median / p95 before | median / p95 during | longest wait | requests during | failed',
    '--- | --- | --- | --- | --- | --- | --- | ---',
  ];
  const rows = timed.map(({ placement, isUndone, began, ended }) => {
    const before = asked.filter((each) => each.ended < began && each.began > began - QUIET_MS);
    const during = asked.filter((each) => each.ended >= began && each.began <= ended);
    const title = [isUndone ? 'rolled back' : 'swap', placement, seconds(ended - began), latencies(before)];
    return [...title, ...outcomesOf(during)].join(' | ');
  });
  const streamed = asked.filter(({ isStreamed }) => isStreamed).length;
  const all = [`all, ${streamed} streamed`, '', '', '', ...outcomesOf(asked)].join(' | ');
  return [...head, ...rows, all].map((row) => `| ${row} |`).join('\n');
}

function outcomesOf(asked: Asked[]): (string | number)[] {
  const longest = percentile(asked.map(waitOf), 1);
  const failed = asked.filter(({ problem }) => problem !== undefined).length;
  return [latencies(asked), seconds(longest), asked.length, failed];
}

function latencies(asked: Asked[]): string {
  const waits = asked.map(waitOf);
  return `${seconds(percentile(waits, 0.5))} / ${seconds(percentile(waits, 0.95))}`;
}

function waitOf({ began, ended }: Asked): number {
  return ended - began;
}

function seconds(milliseconds: number | null): string {
  return milliseconds === null ? '–' : (milliseconds / 1000).toFixed(1);
}

function progress(line: string): void {
  console.error(`${new Date().toISOString().slice(11, 19)} ${line}`);
}

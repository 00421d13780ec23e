import { setTimeout as sleep } from 'node:timers/promises';
import { ask } from '../chat-api.ts';
import type { Deployment, GoldenQuestion } from './deployments.ts';
import { messageOf } from '../errors.ts';
import { healthProblem } from './health.ts';
import { serverProblem, type Server } from './model-server.ts';
import { apiKeyOf } from './serving-options.ts';
import { matches } from '../judging/scoring.ts';

export interface BakeOptions {
  /** From the swap on. */
  bakeSeconds: number;
  signal: AbortSignal;
  report: (details: Record<string, unknown>) => void;
}

const INTERVAL_MS = 2_000;
const ANSWER_TIMEOUT_MS = 120_000;

/** Why the new champion isn't well, found twice running within its time; undefined when it is. */
export async function bake(
  deployment: Deployment,
  { bakeSeconds, signal, report }: BakeOptions,
): Promise<string | undefined> {
  const { champion, swap } = deployment;
  const until = Date.parse(swap?.since ?? deployment.deployedAt) + bakeSeconds * 1000;
  for (let failures = 0; ;) {
    const problem = await problemOf(deployment, signal);
    failures = problem === undefined ? 0 : failures + 1;
    if (failures > 1) return problem;
    const left = until - Date.now();
    if (left <= 0 && problem === undefined) return undefined;
    report({ message: `watching ${champion.runName} in service`, secondsLeft: Math.max(0, Math.round(left / 1000)) });
    await sleep(failures > 0 ? INTERVAL_MS : Math.min(INTERVAL_MS, Math.max(0, left)), undefined, { signal });
  }
}

/** What is wrong with the champion now: its process, its health, or its answer to the golden question at the stable address. */
async function problemOf(deployment: Deployment, signal: AbortSignal): Promise<string | undefined> {
  const { champion } = deployment;
  const server = champion.server as Server;
  const limited = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_TIMEOUT_MS)]);
  try {
    return (
      (await serverProblem(server)) ??
      (await healthProblem(server.url, limited)) ??
      (champion.golden === null ? undefined : await goldenProblem(champion.golden, deployment, limited))
    );
  } catch (error) {
    signal.throwIfAborted();
    return messageOf(error);
  }
}

async function goldenProblem(
  { answer, ...question }: GoldenQuestion,
  { api, name, champion }: Deployment,
  signal: AbortSignal,
): Promise<string | undefined> {
  const apiKey = apiKeyOf(champion.serving);
  const { text } = await ask(question, { apiUrl: api.url, model: name, apiKey, signal });
  return matches(text, answer, 'exact')
    ? undefined
    : `to ${JSON.stringify(question.messages.at(-1)?.content)} it answers ${JSON.stringify(text)} instead of ${JSON.stringify(answer)}`;
}

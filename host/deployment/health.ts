import { messageOf } from '../errors.ts';
import { askHttp } from '../http.ts';
import { apiKeyOf } from './serving-options.ts';

/** Where something listens. */
export interface Endpoint {
  url: string;
  port: number;
}

/** What `GET /health` of a served model says; memory in bytes, the GPU's where there is one, else the process's. */
export interface HealthFacts {
  memoryBytes: number;
  peakMemoryBytes: number;
}

/** Answers running; each comes after a generation that failed in the last two seconds. */
const HOPELESS_AFTER = 10;

/** Why a model's API is not healthy, which it is once it has answered a question about a picture; undefined when it is. */
export async function healthProblem(apiUrl: string, signal: AbortSignal): Promise<string | undefined> {
  return respondsProblem(`${apiUrl}/health`, signal);
}

/** Tells a model that is loaded and can't answer from one that is still being loaded, problem by problem. */
export function hopelessness(): (problem: string) => boolean {
  let answers = 0;
  return (problem) => {
    answers = problem.startsWith('503 ') ? answers + 1 : 0;
    return answers >= HOPELESS_AFTER;
  };
}

/** The facts of a healthy model's API, told only to who has its key; undefined when it isn't healthy. */
export async function healthFacts(
  apiUrl: string,
  serving: Parameters<typeof apiKeyOf>[0],
  signal: AbortSignal,
): Promise<HealthFacts | undefined> {
  const apiKey = apiKeyOf(serving);
  const headers: Record<string, string> = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
  try {
    const { status, body } = await askHttp(`${apiUrl}/health`, { headers, signal });
    return status === 200 ? (JSON.parse(body) as HealthFacts) : undefined;
  } catch {
    signal.throwIfAborted();
    return undefined;
  }
}

/** Why nothing answers at an address; undefined when something does. */
export async function respondsProblem(url: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    const { status, body } = await askHttp(url, { signal });
    return status === 200 ? undefined : `${status} ${body}`;
  } catch (error) {
    signal.throwIfAborted();
    return messageOf(error);
  }
}

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

/** Why a model's API is not healthy, which it is once it has answered a question about a picture; undefined when it is. */
export async function healthProblem(apiUrl: string, signal: AbortSignal): Promise<string | undefined> {
  return problemOf(`${apiUrl}/health`, signal);
}

/** Why nothing answers at an address; undefined when something does. */
export async function respondsProblem(url: string, signal: AbortSignal): Promise<string | undefined> {
  return problemOf(url, signal);
}

/** The facts of a healthy model's API; undefined when it isn't healthy. */
export async function healthFacts(apiUrl: string, signal: AbortSignal): Promise<HealthFacts | undefined> {
  try {
    const response = await fetch(`${apiUrl}/health`, { signal });
    return response.ok ? ((await response.json()) as HealthFacts) : undefined;
  } catch {
    signal.throwIfAborted();
    return undefined;
  }
}

async function problemOf(url: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    const response = await fetch(url, { signal });
    return response.ok ? undefined : `${response.status} ${await response.text()}`;
  } catch (error) {
    signal.throwIfAborted();
    return String(error);
  }
}

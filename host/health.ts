/** Where something listens. */
export interface Endpoint {
  url: string;
  port: number;
}

/** Why a model's API is not healthy, which it is once it has answered a question about a picture; undefined when it is. */
export async function healthProblem(apiUrl: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    const response = await fetch(`${apiUrl}/health`, { signal });
    return response.ok ? undefined : await response.text();
  } catch (error) {
    signal.throwIfAborted();
    return String(error);
  }
}

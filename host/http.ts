import { once } from 'node:events';
import { request, type IncomingHttpHeaders, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http';
import { request as requestSafely } from 'node:https';
import { text } from 'node:stream/consumers';

export interface HttpOptions {
  method?: 'GET' | 'POST';
  headers?: OutgoingHttpHeaders;
  body?: string;
  signal?: AbortSignal | undefined;
}

export interface HttpAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
}

/**
 * Ask an http or https address over a connection of its own. Not by `fetch`, which waits for ever when a connection is taken and closed
 * at once, as Docker's proxy does while nothing listens behind it.
 */
export async function askHttp(url: string, { body, ...options }: HttpOptions = {}): Promise<HttpAnswer> {
  try {
    const asking = (url.startsWith('https:') ? requestSafely : request)(url, { agent: false, ...options }).end(body);
    const [response] = (await once(asking, 'response')) as [IncomingMessage];
    return { status: response.statusCode ?? 0, headers: response.headers, body: await text(response) };
  } catch (error) {
    options.signal?.throwIfAborted();
    throw error;
  }
}

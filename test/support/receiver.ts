import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';

export interface Received {
  path: string;
  query: URLSearchParams;
  headers: IncomingHttpHeaders;
  body: string;
}

/** What a receiver does with a request: answer, never answer, or hang up. */
export type Answer = { status?: number; body?: string; headers?: Record<string, string> } | 'hang' | 'drop';

/** A receiver of webhooks on loopback, which keeps what it got. */
export class Receiver {
  readonly received: Received[] = [];
  /** Given one after the other; the last one again and again. */
  answers: Answer[] = [{}];
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      void (async () => {
        const { pathname, searchParams } = new URL(request.url ?? '', 'http://receiver');
        const body = await text(request);
        this.received.push({ path: pathname, query: searchParams, headers: request.headers, body });
        const answer = (this.answers.length > 1 ? this.answers.shift() : this.answers[0]) ?? {};
        if (answer === 'hang') return;
        if (answer === 'drop') return void request.socket.destroy();
        response.writeHead(answer.status ?? 200, answer.headers).end(answer.body ?? 'ok');
      })();
    });
  }

  async start(port = 0): Promise<this> {
    this.#server.listen(port, '127.0.0.1');
    await once(this.#server, 'listening');
    return this;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  url(path: string): string {
    return `http://127.0.0.1:${this.port}${path}`;
  }

  /** The bodies that came, as JSON. */
  bodies<T = Record<string, unknown>>(): T[] {
    return this.received.map(({ body }) => JSON.parse(body) as T);
  }

  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

import { readFile } from 'node:fs/promises';
import { ask, type ChatRow } from '../host/chat-api.ts';
import type { GoldenQuestion } from '../host/deployment/deployments.ts';
import { messageOf } from '../host/errors.ts';

/** One request from being sent to its last byte, in milliseconds since the epoch. */
export interface Asked {
  began: number;
  ended: number;
  isStreamed: boolean;
  /** Why it was not answered, or not rightly. */
  problem: string | undefined;
}

export interface ClientsOptions {
  apiUrl: string;
  model: string;
  /** Asked in turn; each model has to answer them in these words. */
  questions: GoldenQuestion[];
  count: number;
}

/** Clients that ask without a pause, so that each has a request in flight at any time; every other one streams. */
export class SwapClients {
  readonly #asked: Asked[] = [];
  readonly #options: ClientsOptions;
  readonly #asking: Promise<void[]>;
  #done = false;

  constructor(options: ClientsOptions) {
    this.#options = options;
    this.#asking = Promise.all(Array.from({ length: options.count }, (_, index) => this.#askOn(index)));
  }

  /** All requests, once those in flight are answered. */
  async finish(): Promise<Asked[]> {
    this.#done = true;
    await this.#asking;
    return this.#asked;
  }

  async #askOn(index: number): Promise<void> {
    const { questions } = this.#options;
    const isStreamed = index % 2 === 1;
    for (let turn = index; !this.#done; turn++) {
      const question = questions[turn % questions.length] as GoldenQuestion;
      const began = Date.now();
      const problem = await this.#problemOf(question, isStreamed);
      this.#asked.push({ began, ended: Date.now(), isStreamed, problem });
    }
  }

  async #problemOf({ answer, ...question }: GoldenQuestion, isStreamed: boolean): Promise<string | undefined> {
    try {
      const text = isStreamed ? await askStreaming(question, this.#options) : (await ask(question, this.#options)).text;
      return text === answer ? undefined : `the answer is ${JSON.stringify(text)} instead of ${JSON.stringify(answer)}`;
    } catch (error) {
      return messageOf(error);
    }
  }
}

interface Chunk {
  choices?: { delta: { content?: string } }[];
  error?: { message: string };
}

/** The answer to a question about one picture, as a stream of chunks that has to come to its end. */
async function askStreaming({ messages, images = [] }: ChatRow, { apiUrl, model }: ClientsOptions): Promise<string> {
  const url = `data:image/png;base64,${await readFile(images[0] ?? '', 'base64')}`;
  const text = messages[0]?.content.replace('<image>', '');
  const content = [
    { type: 'image_url', image_url: { url } },
    { type: 'text', text },
  ];
  const response = await fetch(`${apiUrl}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, stream: true, messages: [{ role: 'user', content }] }),
  });
  const body = await response.text();
  if (!response.ok) throw new Error(`${response.status}: ${body.slice(0, 500)}`);
  const events = [...body.matchAll(/^data: (.*)$/gm)].map(([, data = '']) => data.trim());
  if (events.pop() !== '[DONE]') throw new Error('the stream ended early');
  return events.map(contentOf).join('');
}

function contentOf(event: string): string {
  const { choices = [], error } = JSON.parse(event) as Chunk;
  if (error !== undefined) throw new Error(`in the stream: ${error.message}`);
  return choices[0]?.delta.content ?? '';
}

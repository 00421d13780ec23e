import { readFile } from 'node:fs/promises';
import { extname } from 'node:path';
import { askHttp } from './http.ts';

/** A row of `dataset/held_out.jsonl`: `<image>` in a message stands for the next of the pictures (absolute paths). */
export interface ChatRow {
  messages: { role: string; content: string }[];
  images?: string[];
}

export interface Answer {
  text: string;
  latencyMs: number;
}

export interface AskOptions {
  apiUrl: string;
  model: string;
  maxTokens?: number;
  apiKey?: string | undefined;
  signal?: AbortSignal;
}

/** What a row asks: everything before its last answer, which is what is expected. */
export function questionOf(row: ChatRow): { question: ChatRow; expected: string } {
  const last = row.messages.at(-1);
  return { question: { ...row, messages: row.messages.slice(0, -1) }, expected: last?.content ?? '' };
}

/** Ask an OpenAI-compatible API (POST /v1/chat/completions), pictures as data URIs, greedily. Throws on any status but 200. */
export async function ask(
  question: ChatRow,
  { apiUrl, model, maxTokens, apiKey, signal }: AskOptions,
): Promise<Answer> {
  const pictures = await Promise.all((question.images ?? []).map(dataUri));
  const messages = question.messages.map(({ role, content }) => ({ role, content: contentParts(content, pictures) }));
  const started = performance.now();
  const { status, body } = await askHttp(`${apiUrl}/v1/chat/completions`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
    },
    body: JSON.stringify({
      model,
      messages,
      temperature: 0,
      ...(maxTokens === undefined ? {} : { max_tokens: maxTokens }),
    }),
    signal,
  });
  if (status !== 200) throw new Error(`${apiUrl} answered ${status}: ${body.slice(0, 500)}`);
  const { choices } = JSON.parse(body) as { choices: { message: { content: string } }[] };
  return { text: choices[0]?.message.content ?? '', latencyMs: performance.now() - started };
}

type ContentPart = { type: 'text'; text: string } | { type: 'image_url'; image_url: { url: string } };

/** A message's text and pictures in their order; takes the pictures from the front of the list. */
function contentParts(content: string, pictures: string[]): string | ContentPart[] {
  const pieces = content.split('<image>');
  if (pieces.length === 1) return content;
  return pieces.flatMap((text, index): ContentPart[] => {
    const url = index === 0 ? undefined : pictures.shift();
    return [
      ...(url === undefined ? [] : [{ type: 'image_url' as const, image_url: { url } }]),
      ...(text === '' ? [] : [{ type: 'text' as const, text }]),
    ];
  });
}

const mimeTypes: Record<string, string> = {
  '.jpg': 'image/jpeg',
  '.jpeg': 'image/jpeg',
  '.webp': 'image/webp',
  '.gif': 'image/gif',
  '.bmp': 'image/bmp',
};

async function dataUri(path: string): Promise<string> {
  const mime = mimeTypes[extname(path).toLowerCase()] ?? 'image/png';
  return `data:${mime};base64,${(await readFile(path)).toString('base64')}`;
}

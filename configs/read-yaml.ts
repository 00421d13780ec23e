import { isMap, isNode, isScalar, LineCounter, parseDocument, Scalar, type Document, type Pair } from 'yaml';
import type { ConfigIssue } from './config-error.ts';
import { options, type Option } from './llamafactory-options.ts';
import { isOption } from './train-rules.ts';

export interface ReadYaml {
  value: unknown;
  issues: ConfigIssue[];
  /** Where a dotted path stands in the text, or the nearest thing above it that does. */
  locate: (path: string) => { line: number; column: number } | undefined;
}

/** Read a YAML 1.2 text; syntax errors and duplicate keys become issues. */
export function readYaml(text: string): ReadYaml {
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { lineCounter, merge: true, prettyErrors: false });
  const at = (offset: number) => {
    const { line, col } = lineCounter.linePos(offset);
    return { line, column: col };
  };
  const issues = [...document.errors, ...document.warnings].map((error): ConfigIssue => ({
    path: '',
    message: sentence(error.code, error.message),
    ...at(error.pos[0]),
  }));
  if (issues.length > 0) return { value: undefined, issues, locate: () => undefined };
  takeYesAndNoAsLlamaFactoryDoes(document);
  const locate = (path: string) => {
    const offset = offsetOf(document, path === '' ? [] : path.split('.'));
    return offset === undefined ? undefined : at(offset);
  };
  try {
    return { value: document.toJS({ maxAliasCount: 100 }) as unknown, issues, locate };
  } catch (error) {
    return { value: undefined, issues: [{ path: '', message: `not readable as YAML: ${String(error)}` }], locate };
  }
}

function sentence(code: string, message: string): string {
  if (code === 'DUPLICATE_KEY') return 'this key is given twice in one block; keep one of the two';
  if (code === 'TAB_AS_INDENT') return 'YAML is indented by spaces, and this line has a tab';
  return `not readable as YAML: ${message}`;
}

/**
 * LLaMA-Factory reads YAML 1.1, where an unquoted yes, no, on or off is a boolean. Below `train:` that goes for options that
 * take one, for Temper writes the YAML that is read; without `train:` for all.
 */
function takeYesAndNoAsLlamaFactoryDoes(document: Document): void {
  const isPlain = isMap(document.contents) && !document.has('train');
  const block = isPlain ? document.contents : document.get('train');
  if (!isMap(block)) return;
  for (const { key, value } of block.items) {
    if (!isScalar(key) || !isScalar(value) || value.type !== Scalar.PLAIN || typeof value.value !== 'string') continue;
    const { type }: Pick<Option, 'type'> = isOption(key.value) ? options[key.value] : { type: [] };
    if (!isPlain && (!type.includes('bool') || type.includes('string'))) continue;
    if (/^(yes|no|on|off)$/i.test(value.value)) value.value = /^(yes|on)$/i.test(value.value);
  }
}

function offsetOf(document: Document, path: readonly string[]): number | undefined {
  let node: unknown = document.contents;
  let offset: number | undefined;
  for (const part of path) {
    if (!isMap(node)) break;
    const pair = node.items.find((item: Pair) => isScalar(item.key) && String(item.key.value) === part);
    if (pair === undefined) break;
    if (isNode(pair.key)) offset = pair.key.range?.[0] ?? offset;
    node = pair.value;
  }
  return offset;
}

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** One field of an expected JSON object: its name, such as `items[].price`, and whether the answer has it right. */
export interface FieldMatch {
  field: string;
  right: boolean;
}

/**
 * Which leaf fields of the expected JSON object the answer has under the same path with an equal value; null when what is
 * expected is no JSON object with fields. Array items are compared place by place. Strings are equal trimmed and in NFC,
 * numbers as doubles, and nothing equals a value of another type. A field that the answer lacks is wrong; one that it has
 * over and above does not count. All are wrong when the answer is no JSON, with or without a fence around it.
 */
export function compareFields(answer: string, expected: string): FieldMatch[] | null {
  const wanted = parseJson(expected);
  if (!isObject(wanted) || Object.keys(wanted).length === 0) return null;
  const found = parseJson(answer);
  return leavesOf(wanted).map(({ path, value }) => ({
    field: nameOf(path),
    right: isEqual(path.reduce(childOf, found), value),
  }));
}

/** Text as it is compared: surrounding space dropped, Unicode in its composed form (NFC). */
export function normalize(text: string): string {
  return text.trim().normalize('NFC');
}

function parseJson(text: string): Json | undefined {
  const trimmed = text.trim();
  const fenced = /^```(?:json)?\s*\n(.*)```$/is.exec(trimmed);
  try {
    return JSON.parse(fenced?.[1] ?? trimmed) as Json;
  } catch {
    return undefined;
  }
}

type Path = (string | number)[];

/** An empty object or array is a leaf, too, so that it can be missed. */
function leavesOf(value: Json, path: Path = []): { path: Path; value: Json }[] {
  const children: [string | number, Json][] = Array.isArray(value)
    ? [...value.entries()]
    : isObject(value)
      ? Object.entries(value)
      : [];
  return children.length === 0
    ? [{ path, value }]
    : children.flatMap(([key, child]) => leavesOf(child, [...path, key]));
}

function childOf(parent: Json | undefined, key: string | number): Json | undefined {
  if (typeof key === 'number') return Array.isArray(parent) ? parent[key] : undefined;
  return isObject(parent) && Object.hasOwn(parent, key) ? parent[key] : undefined;
}

function isEqual(found: Json | undefined, wanted: Json): boolean {
  if (typeof found === 'string' && typeof wanted === 'string') return normalize(found) === normalize(wanted);
  return typeof wanted === 'object' ? JSON.stringify(found) === JSON.stringify(wanted) : found === wanted;
}

function nameOf(path: Path): string {
  return path.map((key, index) => (typeof key === 'number' ? '[]' : index === 0 ? key : `.${key}`)).join('');
}

function isObject(value: Json | undefined): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

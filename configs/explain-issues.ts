import type * as z from 'zod';
import type { ConfigIssue } from './config-error.ts';
import { explainOption, explainUnknownOption, oneOf, show, withoutQuotes } from './explain-option.ts';
import type { OptionType } from './llamafactory-options.ts';
import { nearest } from './nearest.ts';
import { configSchema } from './schema.ts';
import { isOption } from './train-rules.ts';

type Path = readonly PropertyKey[];

/** Each section's own keys, those within another section by a dotted name, `train`'s left out. */
const sections: Record<string, readonly string[]> = Object.fromEntries(
  Object.entries(configSchema.shape).flatMap(([name, schema]) => keysByPath(name, schema)),
);

/** What zod found wrong with `input`, as sentences that name the path and the fix. */
export function explainIssues(error: z.ZodError, input: unknown): ConfigIssue[] {
  const pasted = pastedWithoutTrain(input);
  if (pasted !== undefined) return [pasted];
  return error.issues.flatMap((issue) => {
    if (issue.code === 'unrecognized_keys') return issue.keys.map((key) => unknownKey(issue.path, key));
    const value = valueAt(input, issue.path);
    const [section, name] = issue.path;
    const path = dotted(issue.path);
    if (section === 'train' && typeof name === 'string' && isOption(name)) {
      return [{ path: `train.${name}`, message: explainOption(name, valueAt(input, ['train', name])) }];
    }
    return [{ path, message: explain(issue, path, value) }];
  });
}

/** `input` at `path`, or undefined. */
export function valueAt(input: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (value, key) =>
      typeof value === 'object' && value !== null ? (value as Record<PropertyKey, unknown>)[key] : undefined,
    input,
  );
}

/** A LLaMA-Factory YAML given as it is gets one answer, not one for each of its lines. */
function pastedWithoutTrain(input: unknown): ConfigIssue | undefined {
  if (typeof input !== 'object' || input === null || 'train' in input) return undefined;
  const found = Object.keys(input).filter(isOption);
  if (found.length < 2) return undefined;
  const message = `${found[0]} and ${found.length - 1} more are LLaMA-Factory's options: put a line \`train:\` above them and indent them by two spaces`;
  return { path: found[0] ?? '', message };
}

function unknownKey(parent: Path, key: string): ConfigIssue {
  const section = dotted(parent);
  const path = dotted([...parent, key]);
  const elsewhere = placesOf(key).filter((place) => place !== section);
  if (section === 'train') return { path, message: explainUnknownOption(key, elsewhere[0]) };
  const known = section === '' ? Object.keys(configSchema.shape) : (sections[section.replaceAll(/\.\d+/g, '')] ?? []);
  const near = nearest(key, known);
  const hint =
    near !== undefined
      ? `did you mean ${dotted([...parent, near])}?`
      : elsewhere.length > 0
        ? `${key} belongs under ${elsewhere.join(' or ')}`
        : `known here: ${known.join(', ')}`;
  return { path, message: `${path} is not a setting; ${hint}` };
}

/** The sections that have such a key. */
function placesOf(key: string): string[] {
  const places = Object.keys(sections).filter((name) => sections[name]?.includes(key));
  return isOption(key) ? ['train', ...places] : places;
}

function explain(issue: z.core.$ZodIssue, path: string, value: unknown): string {
  const where = path === '' ? 'the config' : path;
  if (value === undefined)
    return path === 'train' ? "train is missing: LLaMA-Factory's options go under it" : `${where} is missing`;
  if (value === null) return `${where} is empty: give it a value or leave the line out`;
  switch (issue.code) {
    case 'invalid_type': {
      const type = expectedType(issue.expected);
      const unquoted = withoutQuotes(value, type);
      if (unquoted !== undefined) return `${where}: ${show(value)} is text: write ${unquoted} without quotes`;
      return `${where}: ${show(value)} won't do; it takes ${expectedName(issue.expected)}`;
    }
    case 'invalid_value':
      return `${where}: ${oneOf(value, issue.values)}`;
    case 'too_small':
      return `${where}: ${show(value)} is too small; it takes ${issue.inclusive === false ? 'more than' : 'at least'} ${issue.minimum}`;
    case 'too_big':
      return `${where}: ${show(value)} is too big; it takes ${issue.inclusive === false ? 'less than' : 'at most'} ${issue.maximum}`;
    case 'invalid_format':
      // Who writes a secret where its variable's name belongs shall not find it in a log.
      return `${where}: ${/Env$/.test(path) ? 'what stands there' : show(value)} won't do; it ${issue.message}`;
    default:
      return `${where}: ${issue.message}`;
  }
}

function expectedType(expected: string): OptionType[] {
  return expected === 'boolean' ? ['bool'] : expected === 'number' || expected === 'int' ? ['float'] : [];
}

function expectedName(expected: string): string {
  const names: Record<string, string> = {
    int: 'a whole number',
    number: 'a number',
    boolean: 'true or false',
    string: 'text',
    object: 'a block of settings',
    record: 'a block of settings',
    array: 'a list',
  };
  return names[expected] ?? expected;
}

function keysByPath(path: string, schema: z.core.$ZodType): [string, string[]][] {
  const shape = shapeOf(schema);
  const within = Object.entries(shape).flatMap(([key, inner]) => keysByPath(`${path}.${key}`, inner));
  return [[path, Object.keys(shape)], ...within.filter(([, keys]) => keys.length > 0)];
}

function shapeOf(schema: z.core.$ZodType): Record<string, z.core.$ZodType> {
  const { innerType, element } = (schema as unknown as { def: Record<string, z.core.$ZodType | undefined> }).def;
  const inner = innerType ?? element;
  if (inner !== undefined) return shapeOf(inner);
  const { shape = {} } = schema as { shape?: Record<string, z.core.$ZodType> };
  return 'lora_rank' in shape ? {} : shape;
}

function dotted(path: Path): string {
  return path.map(String).join('.');
}

import { llamaFactoryVersion, options, type Option, type OptionType } from './llamafactory-options.ts';
import { nearest } from './nearest.ts';
import { formerNames, limits, secrets, temperRules, type Limit, type OptionName } from './train-rules.ts';

const typeNames: Record<OptionType, string> = {
  int: 'a whole number',
  float: 'a number',
  bool: 'true or false',
  string: 'text',
  names: 'names with commas between them, or a list of them',
  list: 'a list',
  dict: 'a block of keys and values',
  null: 'null',
};

const missing: Partial<Record<OptionName, string>> = {
  model_name_or_path:
    'the folder of the base, such as /data/model/qwen3-vl-4b-instruct, or else model.source, such as hf:Qwen/Qwen3-VL-4B-Instruct',
  dataset: 'the name in dataset_info.json of the rows to train on, such as my_rows',
  dataset_dir: 'the folder that holds dataset_info.json, such as /data/datasets/my_rows',
  template: 'qwen3_vl_nothink for an Instruct base, qwen3_vl for a Thinking one',
};

/** Why the option can't have this value, and what to write. */
export function explainOption(name: OptionName, value: unknown, rules = temperRules): string {
  const path = `${rules.prefix}${name}`;
  const { type, default: standard, choices }: Option = options[name];
  if (value === undefined) return `${path} is missing: ${missing[name] ?? typeNames[type[0] ?? 'string']}`;
  const secret = rules.secrets[name];
  if (secret !== undefined) {
    const instead = secret === null ? 'leave it out' : `set ${secret} in the worker's environment instead`;
    return `${path} is a secret, and a config is kept in the run's history: ${instead}`;
  }
  if (value === null || value === '') {
    const instead = missing[name] ?? `leave the line out for LLaMA-Factory's default, ${JSON.stringify(standard)}`;
    return `${path} is empty: ${instead}`;
  }
  if (secrets[name] !== undefined) return `${path} takes ${takes(name)}`;
  const only = rules.restricted[name];
  if (only !== undefined) {
    return `${path}: ${oneOf(value, only.values)}; ${only.why}`;
  }
  const unquoted = withoutQuotes(value, type);
  if (unquoted !== undefined) {
    return `${path}: ${show(value)} is text, and it takes ${takes(name)}: write ${name}: ${unquoted} without quotes`;
  }
  if (typeof value === 'number' && choices === undefined && (type.includes('string') || type.includes('names'))) {
    return `${path}: ${value} is a number, and it takes ${takes(name)}: write ${name}: "${value}"`;
  }
  if (choices !== undefined && typeof value === 'boolean') {
    const meant = choices.find((choice) => choice === (value ? 'yes' : 'no')) ?? choices.join(' or ');
    return `${path}: ${value} is no text; write ${name}: "${meant}" (without quotes, LLaMA-Factory reads no and off as false)`;
  }
  if (choices !== undefined && typeof value === 'string') return `${path}: ${oneOf(value, choices)}`;
  if (typeof value === 'number' && type.includes('int') && !type.includes('float') && !Number.isInteger(value)) {
    return `${path}: ${value} is not a whole number; ${name} takes ${takes(name)}`;
  }
  return `${path}: ${show(value)} won't do; ${name} takes ${takes(name)}`;
}

/** What to say about a key among LLaMA-Factory's options that it doesn't have. */
export function explainUnknownOption(key: string, elsewhere?: string, { prefix } = temperRules): string {
  const unknown = `${prefix}${key} is not an option of LLaMA-Factory ${llamaFactoryVersion}`;
  if (elsewhere !== undefined) return `${unknown}; ${key} belongs under ${elsewhere}`;
  const former = Object.hasOwn(formerNames, key) ? formerNames[key] : undefined;
  if (former !== undefined) return `${unknown}; write ${former}`;
  const near = nearest(key, Object.keys(options));
  return near === undefined
    ? `${unknown}; configs/schema.json lists all there are`
    : `${unknown}; did you mean ${near}?`;
}

/** `"x" is not one of a, b; did you mean a?` */
export function oneOf(value: unknown, choices: readonly unknown[]): string {
  const known = choices.map(String);
  const near = known.length > 1 && typeof value === 'string' ? nearest(value, known) : undefined;
  const list = known.length === 1 ? `is not ${known[0]}` : `is not one of ${known.join(', ')}`;
  return `${show(value)} ${list}${near === undefined ? '' : `; did you mean ${near}?`}`;
}

/** A value as it would stand in JSON, shortened. */
export function show(value: unknown): string {
  const text = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** The number or boolean that a quoted value was meant to be, if the type wants one. */
export function withoutQuotes(value: unknown, type: readonly OptionType[]): string | undefined {
  if (typeof value !== 'string') return undefined;
  const text = value.trim();
  if (type.includes('bool') && /^(true|false)$/i.test(text)) return text.toLowerCase();
  const number = type.includes('int') || type.includes('float');
  const plain = text.replace(/(?<=\d)_(?=\d)/g, '');
  return number && plain !== '' && Number.isFinite(Number(plain)) ? plain : undefined;
}

function takes(name: OptionName): string {
  const { type }: Option = options[name];
  const limit = limits[name];
  return type
    .filter((each) => each !== 'null')
    .map((each) =>
      limit !== undefined && (each === 'int' || each === 'float') ? withLimit(typeNames[each], limit) : typeNames[each],
    )
    .join(' or ');
}

function withLimit(type: string, { above, min, below, max, wholeFrom1, or }: Limit): string {
  const lower = above !== undefined ? `above ${above}` : min !== undefined ? `of at least ${min}` : '';
  const upper = below !== undefined ? `below ${below}` : max !== undefined ? `at most ${max}` : '';
  if (wholeFrom1 === true) return `a share ${above === undefined ? 'from 0' : 'above 0'} to below 1, or a whole number`;
  const range = [lower, upper].filter((part) => part !== '').join(' and ');
  return `${type} ${range}${or === undefined ? '' : `, or ${or}`}`;
}

import * as z from 'zod';
import { options, type Option, type OptionType } from './llamafactory-options.ts';
import { limits, owned, temperRules, type Limit, type OptionName, type OptionRules } from './train-rules.ts';

interface ValueTypes {
  int: number;
  float: number;
  bool: boolean;
  string: string;
  names: string | string[];
  list: unknown[];
  dict: Record<string, unknown>;
  null: null;
}

type ChoiceOf<O extends Option> = O extends { choices: readonly (infer Choice)[] } ? Choice : ValueTypes['string'];

type ValueOf<O extends Option> = {
  [T in O['type'][number]]: T extends 'string' ? ChoiceOf<O> : ValueTypes[T];
}[O['type'][number]];

/** LLaMA-Factory's options by their own names. */
export type TrainOptions = { [Name in OptionName]?: ValueOf<(typeof options)[Name]> } & {
  model_name_or_path?: string;
  dataset: string | string[];
  dataset_dir: string;
  template: 'qwen3_vl_nothink' | 'qwen3_vl';
};

export const optionNames = Object.keys(options) as OptionName[];

/** The `train:` part: every option with LLaMA-Factory's own type, and tighter where a bad value shows late or never. */
export const trainSchema = z
  .strictObject(Object.fromEntries(optionNames.map((name) => [name, optionSchema(name)])))
  .describe("LLaMA-Factory's training options, by their own names") as unknown as z.ZodType<TrainOptions>;

/** What one option takes. */
export function optionSchema(name: OptionName, rules = temperRules): z.ZodType {
  const [only, ...others] = alternatives(name, rules);
  const schema = (others.length === 0 ? only : z.union([only, ...others])).meta({ description: describe(name, rules) });
  return rules.required.includes(name) && !rules.supplied.includes(name) ? schema : schema.optional();
}

/** LLaMA-Factory's help and default, and what Temper has to add. */
function describe(name: OptionName, { required, restricted }: OptionRules): string {
  const { help, default: standard }: Option = options[name];
  const sentences = [
    help.replace(/\.$/, ''),
    standard === null || required.includes(name) || restricted[name] !== undefined
      ? undefined
      : `Default: ${JSON.stringify(standard)}`,
    restricted[name] === undefined
      ? undefined
      : `In Temper ${restricted[name].values.join(' or ')}: ${restricted[name].why}`,
    owned[name] === undefined ? undefined : `Not used by Temper: ${owned[name].says}`,
  ];
  return sentences.filter((sentence) => sentence !== undefined).join('. ');
}

function alternatives(name: OptionName, { required, restricted, secrets }: OptionRules): [z.ZodType, ...z.ZodType[]] {
  if (secrets[name] !== undefined) return [z.null()];
  const only = restricted[name];
  if (only !== undefined) return [z.literal([...only.values])];
  const { type, choices }: Option = options[name];
  const types = required.includes(name) ? type.filter((each) => each !== 'null') : type;
  const [first, ...others] = types.map((each) => typeSchema(each, choices, limits[name]));
  if (first === undefined) throw new TypeError(`option ${name} has no type`);
  return name === 'resume_from_checkpoint' ? [first, ...others, z.boolean()] : [first, ...others];
}

function typeSchema(type: OptionType, choices: readonly string[] | undefined, limit: Limit = {}): z.ZodType {
  switch (type) {
    case 'int':
      return numberSchema(z.int(), limit);
    case 'float':
      return numberSchema(z.number(), limit);
    case 'bool':
      return z.boolean();
    case 'string':
      return choices === undefined ? z.string() : z.enum(choices);
    case 'names':
      return z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]);
    case 'list':
      return z.array(z.unknown());
    case 'dict':
      return z.record(z.string(), z.unknown());
    case 'null':
      return z.null();
  }
}

function numberSchema(number: z.ZodNumber, { above, min, below, max, wholeFrom1, or }: Limit): z.ZodType {
  let schema = number;
  if (above !== undefined) schema = schema.gt(above);
  if (min !== undefined) schema = schema.gte(min);
  if (below !== undefined) schema = schema.lt(below);
  if (max !== undefined) schema = schema.lte(max);
  if (wholeFrom1 === true) return z.union([schema.lt(1), z.int().gte(1)]);
  return or === undefined ? schema : z.union([schema, z.literal(or)]);
}

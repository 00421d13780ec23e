import * as z from 'zod';
import { configSchema } from './schema.ts';

/** The JSON schema of a config file, by which editors complete and check it; `configs/schema.json` holds this text. */
export function jsonSchemaText(): string {
  return `${format(jsonSchema(), '')}\n`;
}

/** The JSON schema of a config file, draft 7, as most editors read it. */
export function jsonSchema(): Record<string, unknown> {
  const schema = z.toJSONSchema(configSchema, { io: 'input', target: 'draft-7', override: withoutSafeIntegerBounds });
  const hasBase = [{ required: ['model'] }, { properties: { train: { required: ['model_name_or_path'] } } }];
  return { title: 'Temper config', ...schema, anyOf: hasBase };
}

/** A bound of 2^53 says nothing to a reader. */
function withoutSafeIntegerBounds({ jsonSchema }: { jsonSchema: z.core.JSONSchema.BaseSchema }): void {
  if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
  if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
}

/** JSON with whatever fits on one line on one line. */
function format(value: unknown, indent: string): string {
  const flat = JSON.stringify(value);
  if (typeof value !== 'object' || value === null || flat.length + indent.length <= 400) return flat;
  const inner = `${indent}  `;
  const lines = Array.isArray(value)
    ? value.map((item) => inner + format(item, inner))
    : Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${format(item, inner)}`);
  const [open, close] = Array.isArray(value) ? ['[', ']'] : ['{', '}'];
  return `${open}\n${lines.join(',\n')}\n${indent}${close}`;
}

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { shapeOf, type ModelShape } from '../../host/planning/model-shape.ts';

/** The shape of a published Qwen3-VL. */
export function qwen3VL(size: '4b' | '8b'): ModelShape {
  const path = join(checkout, `test/fixtures/model-shapes/qwen3-vl-${size}.json`);
  return shapeOf(JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>, path);
}

import type { ResolvedConfig } from '../configs/schema.ts';
import { digestOfValue } from './digest.ts';

/** sha256 (hex) of a config; who is told of its runs makes no other config of it. */
export function digestOfConfig({ notify: _notify, ...config }: ResolvedConfig): string {
  return digestOfValue(config);
}

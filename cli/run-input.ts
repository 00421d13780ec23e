import { TemperError } from '../host/errors.ts';
import type { FineTuneInput } from '../workflows/fine-tune-input.ts';
import { changesOf } from './changes-of.ts';

/** fineTune's input by the options that `temper start` and `temper schedule` share. */
export function runInput(
  config: string,
  { set, continueFrom }: { set: string[]; continueFrom: string },
): FineTuneInput {
  if (continueFrom !== 'base' && continueFrom !== 'champion')
    throw new TemperError('ConfigError', `--continue-from ${continueFrom}: takes base or champion.`);
  return {
    config,
    ...(set.length > 0 && { set: changesOf(set) }),
    ...(continueFrom === 'champion' && { continueFrom }),
  };
}

import { ApplicationFailure } from '@temporalio/workflow';

/** What `fineTune` is started with. */
export interface FineTuneInput {
  /** The name or path of a YAML below the configs folder, or the config itself. */
  config: string | Record<string, unknown>;
  /** Settings that take the place of the file's, by dotted path: `{"train.num_train_epochs": 1}`. */
  set?: Record<string, unknown>;
  /** The host to run on, as `temper hosts` names it; by default the one that fits best. */
  host?: string;
  /** End at once as `unchanged` when rows and config are those of the last run of this config that was judged. */
  onlyIfChanged?: boolean;
  /** As `onlyIfChanged`, and rows of which fewer than so many are new count as unchanged, too. */
  minNewRows?: number;
  /** `champion`: train on from the adapter of what the deployment serves; without one, and by default, from the base. */
  continueFrom?: 'base' | 'champion';
}

const checks: Record<keyof FineTuneInput, { takes: string; isRight: (value: unknown) => boolean }> = {
  config: {
    takes: 'the name or path of a YAML, or the config itself',
    isRight: (value) => (typeof value === 'string' && value !== '') || (typeof value === 'object' && value !== null),
  },
  set: {
    takes: 'an object of settings by dotted path, such as {"train.num_train_epochs": 1}',
    isRight: (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
  },
  host: { takes: "a host's name", isRight: (value) => typeof value === 'string' && value !== '' },
  onlyIfChanged: { takes: 'true or false', isRight: (value) => typeof value === 'boolean' },
  minNewRows: { takes: 'a whole number from 1', isRight: (value) => Number.isInteger(value) && Number(value) >= 1 },
  continueFrom: { takes: '"base" or "champion"', isRight: (value) => value === 'base' || value === 'champion' },
};

/** Throws ConfigError, which no retry helps, naming all that is wrong. */
export function requireInput(input: FineTuneInput | undefined): asserts input is FineTuneInput {
  const given: Record<string, unknown> = { ...input };
  const known = Object.keys(checks) as (keyof FineTuneInput)[];
  const wrong = [
    ...Object.keys(given).flatMap((key) => (key in checks ? [] : [`it has no key ${key}`])),
    ...(given.config === undefined ? ['the input has no config'] : []),
    ...known.flatMap((key) => {
      const { takes, isRight } = checks[key];
      return given[key] === undefined || isRight(given[key]) ? [] : [`${key} takes ${takes}`];
    }),
  ];
  if (wrong.length === 0) return;
  throw ApplicationFailure.nonRetryable(
    `fineTune takes one object, {"config": "<name or path of a YAML, or the config itself>"}, and beside config set, host, onlyIfChanged, minNewRows and continueFrom; ${wrong.join('; ')}.`,
    'ConfigError',
  );
}

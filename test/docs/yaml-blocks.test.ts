import { expect, test } from '@jest/globals';
import { join } from 'node:path';
import { parse } from 'yaml';
import { loadConfig } from '../../configs/load.ts';
import { checkout } from '../../host/checkout.ts';
import { blocksOf, pages } from '../support/markdown.ts';

const blocks = pages.flatMap((page) => blocksOf(page).filter(({ language }) => /^ya?ml$/.test(language)));

test.each(blocks)('the YAML at $page:$line is one that a config may have', ({ text }) => {
  const sections = Object.entries(parse(text) as Record<string, unknown>);
  const changes = sections.flatMap(([section, value]): [string, unknown][] =>
    isMapping(value)
      ? Object.entries(value).map(([key, setting]) => [`${section}.${key}`, setting])
      : [[section, value]],
  );
  const scope = {
    configsFolder: join(checkout, 'configs'),
    root: checkout,
    modelsRoot: join(checkout, '.temper/models'),
  };
  // Neither a scorer, which is for config files alone, nor paths of a machine that is not this one.
  const here = changes.filter(([key, value]) => key !== 'evaluate.scorer' && !/^\/(data|mnt)\//.test(String(value)));
  expect(() => loadConfig('demo', { ...scope, allowedRoots: [checkout] }, Object.fromEntries(here))).not.toThrow();
});

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

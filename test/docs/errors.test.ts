import { expect, test } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { errorNames } from '../../host/errors.ts';

test('docs/errors.md has a row for each error, and says of each what the retry policy does', async () => {
  const page = await readFile(join(checkout, 'docs/errors.md'), 'utf8');
  const rows = new Map(
    [...page.matchAll(/^\| (\w+Error) \| [^|]+ \| (yes|no)/gm)].map((match) => [match[1], match[2] === 'yes']),
  );
  expect([...rows.keys()].sort()).toEqual([...errorNames].sort());
  const stages = await readFile(join(checkout, 'workflows/stages.ts'), 'utf8');
  for (const [name, retried] of rows) expect(stages).toContain(`${name}: ${retried}`);
});

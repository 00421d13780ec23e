import { expect, test } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { planTables } from '../../bench/plans.ts';
import { checkout } from '../../host/checkout.ts';

test('the tables of docs/plans.md are what is planned; `node dist/bench/plans.js` prints them', async () => {
  const page = await readFile(join(checkout, 'docs/plans.md'), 'utf8');
  expect(page).toContain(planTables());
});

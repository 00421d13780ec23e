import { beforeAll, expect, test } from '@jest/globals';
import { Worker } from '@temporalio/worker';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { quietRuntime, workflowBundle } from '../support/temporal.ts';

// Histories recorded with `temporal workflow show -o json`; a change that breaks one would break a run in flight.
const folder = join(checkout, 'test/fixtures/histories');

beforeAll(quietRuntime);

test.each(readdirSync(folder))('%s replays on the current workflow code', async (name) => {
  const history: unknown = JSON.parse(readFileSync(join(folder, name), 'utf8'));
  await expect(Worker.runReplayHistory({ workflowBundle }, history)).resolves.toBeUndefined();
});

test('a history that the code would not have made is refused', async () => {
  const text = readFileSync(join(folder, 'deployed.json'), 'utf8').replaceAll('"mergeAdapter"', '"otherActivity"');
  await expect(Worker.runReplayHistory({ workflowBundle }, JSON.parse(text) as unknown)).rejects.toThrow(
    /TMPRL1100|[Nn]ondeterminism/,
  );
});

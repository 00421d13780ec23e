import { beforeAll, expect, test } from '@jest/globals';
import { Worker } from '@temporalio/worker';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { quietRuntime, workflowBundle } from '../support/temporal.ts';

// Histories of every release, recorded by scripts/record-histories.mjs; a change that breaks one would break a run in flight.
const releases = join(checkout, 'test/fixtures/releases');
const histories = readdirSync(releases).flatMap((release) =>
  readdirSync(join(releases, release, 'histories')).map((name) => [release, name] as const),
);
const readHistory = (release: string, name: string) => readFileSync(join(releases, release, 'histories', name), 'utf8');

beforeAll(quietRuntime);

test.each(histories)('%s: %s replays on the current workflow code', async (release, name) => {
  const history: unknown = JSON.parse(readHistory(release, name));
  await expect(Worker.runReplayHistory({ workflowBundle }, history)).resolves.toBeUndefined();
});

test('a history that the code would not have made is refused', async () => {
  const text = readHistory('0.1.0', 'deployed.json').replaceAll('"mergeAdapter"', '"otherActivity"');
  await expect(Worker.runReplayHistory({ workflowBundle }, JSON.parse(text) as unknown)).rejects.toThrow(
    /TMPRL1100|[Nn]ondeterminism/,
  );
});

import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { deployModel, type DeployModelInput } from '../../activities/deploy-model.ts';
import { discardCandidate } from '../../activities/discard-candidate.ts';
import { evaluateModel } from '../../activities/evaluate-model.ts';
import { applyRollback, planRollback, type RollbackInput, type RollbackResult } from '../../activities/roll-back.ts';
import { findDeployment, stopDeployment, type Deployment } from '../../host/deployment/deployments.ts';
import { readHistory } from '../../host/deployment/history.ts';
import { TemperError } from '../../host/errors.ts';
import { processesWith } from '../../host/process-table.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { readJson } from '../../host/state-file.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { judgingHost, knowing, type Changes, type JudgingHost } from '../support/judged.ts';
import { answeringRun, releaseFolder, releaseOf, servedRuns, stopAllServed, type Behavior } from '../support/served.ts';

// Real HAProxy, real processes; the models answer as their behavior.json says.
jest.setTimeout(60_000);

let home: string;
let host: JudgingHost;
beforeEach(() => {
  home = newFolder();
  host = judgingHost(home);
});
afterEach(() => stopAllServed(home));

const digests = { config: 'config', dataset: 'rows', base: 'base', adapter: 'adapter' };
const approval = { by: 'Mei', why: 'looked at 20 answers' };

describe('deployModel', () => {
  test('swaps in the candidate that was judged, and writes down what it is and who wanted it', async () => {
    await deployed('first', { answers: knowing(4) });
    const input = await judged('second', { answers: knowing(7) });
    const before = processesWith(releaseFolder(home, 'second'));
    const result = await deployModel({ ...input, approval }, host.context('second'));
    const { api, page } = await current();
    const headline = `chat page ${page.url}, API ${api.url}`;
    expect(result).toEqual({
      ...{ name: 'cards', outcome: 'deployed', why: null, apiUrl: api.url, pageUrl: page.url, headline },
    });
    expect(before).toHaveLength(1);
    expect(processesWith(releaseFolder(home, 'second'))).toEqual(before);
    expect(await readJson(openRunDirectory(home, 'second').deployment)).toEqual({
      ...result,
      deployment: await current(),
    });
    const comparison = expect.objectContaining({ meanDifference: 0.375, low: 0.125, high: 0.75 });
    expect((await readHistory(home, 'cards')).at(-1)).toMatchObject({
      ...{ event: 'deployed', serves: 'second', digests, score: 0.875, comparison, by: 'Mei' },
      ...{ why: 'looked at 20 answers', model: { golden: { answer: 'one' } } },
    });
    expect(servedRuns(home, ['first', 'second'])).toEqual(['second']);
  });

  test('starts a candidate that has waited for its approval, stopped', async () => {
    const input = await judged('first', { answers: knowing(4) }, { deploy: { approval: 'manual' } });
    expect(servedRuns(home, ['first'])).toEqual([]);
    const { apiUrl } = await deployModel({ ...input, approval }, host.context('first'));
    expect(await answeringRun(apiUrl ?? '')).toBe('first');
  });

  test('says why a model was rolled back and what serves', async () => {
    await deployed('first', { answers: knowing(4) });
    const input = await judged('second', { answers: knowing(7) }, { deploy: { bakeSeconds: 20 } });
    releaseOf(home, 'second', { answer: 'nonsense' });
    const result = await deployModel({ ...input, approval: null }, host.context('second'));
    expect(result).toMatchObject({ outcome: 'rolledBack', apiUrl: (await current()).api.url });
    expect(result.headline).toMatch(/^rolled back, run first serves again: .* it answers "nonsense" instead of "one"$/);
  });

  test('a model that was not judged has no score, no golden question', async () => {
    await deployed('first', {}, { evaluation: null });
    const [event] = await readHistory(home, 'cards');
    expect(event).toMatchObject({ score: null, comparison: null, model: { golden: null } });
    expect(event).not.toHaveProperty('by');
  });
});

describe('discardCandidate', () => {
  test('stops a rejected candidate and writes down once who rejected it and why', async () => {
    await deployed('first', { answers: knowing(4) });
    const { evaluation, ...input } = await judged('second', { answers: knowing(7) });
    const rejected = { evaluation, by: 'Mei', why: 'worse on blurred cards' };
    const discard = () => discardCandidate({ ...input, rejected }, host.context('second'));
    expect(await discard()).toEqual({ headline: 'rejected: worse on blurred cards' });
    await discard();
    expect(servedRuns(home, ['first', 'second'])).toEqual(['first']);
    const rejections = (await readHistory(home, 'cards')).filter(({ event }) => event === 'rejected');
    expect(rejections).toHaveLength(1);
    expect(rejections[0]).toMatchObject({
      ...{ model: { runName: 'second' }, serves: 'first', by: 'Mei', why: 'worse on blurred cards', score: 0.875 },
      comparison: { meanDifference: 0.375 },
    });
  });

  test('of a run that failed leaves the history alone, and other candidates', async () => {
    const input = await judged('second', { answers: knowing(7) });
    await judged('third', { answers: knowing(7) });
    expect(await discardCandidate({ ...input, rejected: null }, host.context('second'))).toEqual({
      headline: 'the candidate is stopped',
    });
    expect(servedRuns(home, ['second', 'third'])).toEqual(['third']);
    expect(await readHistory(home, 'cards')).toEqual([]);
  });

  test('does not stop the champion that the candidate has become', async () => {
    const input = await deployed('first', {});
    await discardCandidate({ ...input, rejected: null }, host.context('first'));
    expect(servedRuns(home, ['first'])).toEqual(['first']);
  });
});

describe('a rollback', () => {
  test('brings the champion before back as it was served, watched, and says so in the history', async () => {
    await deployed('first', { answers: knowing(4) }, { changes: { evaluate: { maxNewTokens: 17 } } });
    await deployed('second', { answers: knowing(7) });
    const plan = await planRollback({ deployment: 'cards' }, host.context('rollback-1'));
    const apply = () =>
      applyRollback({ plan, by: 'Mei', why: 'users complain about dates' }, host.context('rollback-1'));
    const result = await apply();
    const { api, champion } = await current();
    expect(result).toMatchObject({ fromRun: 'second', toRun: 'first', apiUrl: api.url });
    expect(await answeringRun(api.url)).toBe('first');
    expect(champion.serving.maxNewTokens).toBe(17);
    expect(champion.golden?.answer).toBe('one');
    expect(servedRuns(home, ['first', 'second'])).toEqual(['first']);
    const [back, out] = (await readHistory(home, 'cards')).slice(-2);
    const record = { serves: 'first', by: 'Mei', why: 'users complain about dates' };
    expect(back).toMatchObject({ event: 'deployed', model: { runName: 'first' }, ...record });
    expect(out).toMatchObject({ event: 'rolledBack', model: { runName: 'second' }, ...record });
    const history = await readHistory(home, 'cards');
    expect(await apply()).toEqual(result);
    expect(await readHistory(home, 'cards')).toEqual(history);
  });

  test('goes to the run that it names', async () => {
    for (const [index, runName] of ['first', 'second', 'third'].entries())
      await deployed(runName, { answers: knowing(4 + index) });
    const plan = await planRollback({ deployment: 'cards', toRun: 'first' }, host.context('rollback-1'));
    expect(plan).toMatchObject({
      ...{ from: { runName: 'third' }, to: { runName: 'first' }, headline: 'cards: from run third to run first' },
    });
  });

  const refusals: [string, (input: { first: string }) => unknown, RollbackInput, RegExp][] = [
    [
      'nothing in service',
      async () => stopDeployment(await current()),
      { deployment: 'cards' },
      /nothing is in service/,
    ],
    ['a name of nothing', () => {}, { deployment: 'card' }, /^card can't be rolled back: nothing is in service under/],
    ['a run that never served', () => {}, { deployment: 'cards', toRun: 'third' }, /run third has not proved itself/],
    ['a folder that is gone', ({ first }) => rmSync(first, { recursive: true }), { deployment: 'cards' }, /is gone\.$/],
    [
      'a folder that holds another model',
      ({ first }) => writeFileSync(join(first, 'merge.json'), '{"mergeDigest": "other"}'),
      { deployment: 'cards' },
      /^cards can't be rolled back: the folder of run first, .*, holds another model by now\.$/,
    ],
  ];
  test.each(refusals)('is refused by one sentence: %s', async (_, change, input, message) => {
    await deployed('first', {});
    await deployed('second', {});
    await change({ first: releaseFolder(home, 'first') });
    await expectRefusal(input, message);
  });

  test('is refused by one sentence: no champion before', async () => {
    await deployed('first', {});
    await expectRefusal({ deployment: 'cards' }, /^cards can't be rolled back: no other model has proved itself there/);
  });

  test('to a model that does not prove itself leaves the current one in service', async () => {
    await deployed('first', { answers: knowing(4) });
    await deployed('second', { answers: knowing(7) });
    releaseOf(home, 'first', { answer: 'nonsense' });
    const failing = expect(rollBack()).rejects;
    await failing.toMatchObject({
      name: 'DeploymentError',
      message: expect.stringMatching(
        /^The model of run first did not prove itself, run second serves on: .*"nonsense"/,
      ),
    });
    expect(await answeringRun((await current()).api.url)).toBe('second');
    expect(servedRuns(home, ['first', 'second'])).toEqual(['second']);
  });

  test('to a model that does not start leaves the current one in service', async () => {
    await deployed('first', {});
    await deployed('second', {});
    releaseOf(home, 'first', { exitCode: 1 });
    await expect(rollBack()).rejects.toMatchObject({ name: 'DeploymentError' });
    expect(await answeringRun((await current()).api.url)).toBe('second');
  });
});

async function current(): Promise<Deployment> {
  const deployment = await findDeployment(home, 'cards');
  if (deployment === undefined) throw new Error('nothing serves');
  return deployment;
}

/** What deployModel gets of a model that was judged. */
async function judged(runName: string, behavior: Behavior, changes: Changes = {}) {
  const input = await host.run(runName, behavior, changes);
  return { ...input, digests, evaluation: await evaluateModel(input, host.context(runName)) };
}

async function deployed(
  runName: string,
  behavior: Behavior,
  { changes = {}, ...given }: { changes?: Changes; evaluation?: null } = {},
): Promise<DeployModelInput> {
  const judging =
    given.evaluation === null
      ? { ...(await host.run(runName, behavior, changes)), digests, evaluation: null }
      : await judged(runName, behavior, changes);
  const input = { ...judging, approval: null };
  const { outcome } = await deployModel(input, host.context(runName));
  expect(outcome).toBe('deployed');
  return input;
}

async function rollBack(): Promise<RollbackResult> {
  const context = host.context('rollback-1');
  return applyRollback({ plan: await planRollback({ deployment: 'cards' }, context) }, context);
}

async function expectRefusal(input: RollbackInput, message: RegExp): Promise<void> {
  const refused = expect(planRollback(input, host.context('rollback-1'))).rejects;
  await refused.toMatchObject({ name: 'ConfigError', message: expect.stringMatching(message) });
  await expect(planRollback(input, host.context('rollback-1'))).rejects.toBeInstanceOf(TemperError);
}

import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  discardCandidate,
  listCandidates,
  startCandidate,
  type RecordedCandidate,
} from '../../../host/deployment/candidates.ts';
import { championBefore, readHistory } from '../../../host/deployment/history.ts';
import { findDeployment, readDeployment, type Deployment, type Release } from '../../../host/deployment/deployments.ts';
import { deploymentFolder, modelKey, serverRuns } from '../../../host/deployment/model-server.ts';
import { processesWith } from '../../../host/process-table.ts';
import { pointedAt } from '../../../host/deployment/front.ts';
import { settleAbandonedSwap } from '../../../host/deployment/put-into-service.ts';
import { readJson } from '../../../host/state-file.ts';
import { eventually, newFolder } from '../../fixtures/trainers/stand-in.ts';
import {
  answeringRun,
  deploy,
  historyFile,
  releaseFolder,
  releaseOf,
  servedRuns,
  stopAllServed,
  swap,
  swapInProcess,
} from '../../support/served.ts';

// Real HAProxy, real processes; the models behave as their behavior.json says.
jest.setTimeout(180_000);

let home: string;
beforeEach(() => {
  home = newFolder();
});
afterEach(() => stopAllServed(home));

async function current(): Promise<Deployment> {
  const deployment = await findDeployment(home, 'cards');
  if (deployment === undefined) throw new Error('nothing serves');
  return deployment;
}

async function events(): Promise<[string, string, string | null][]> {
  return (await readHistory(home, 'cards')).map(({ event, model, serves }) => [event, model.runName, serves]);
}

/** Ask without a pause until `work` is done; the runs that answered, in order, without repetition. Any failed request throws. */
async function underLoad(apiUrl: string, work: () => Promise<unknown>): Promise<string[]> {
  const answered: string[] = [];
  let done = false;
  const asking = Promise.all(
    Array.from({ length: 8 }, async () => {
      while (!done) {
        const run = await answeringRun(apiUrl);
        if (run === null) throw new Error('a request was not answered by a model');
        if (answered.at(-1) !== run) answered.push(run);
      }
    }),
  );
  await Promise.race([asking, work().finally(() => (done = true))]);
  await asking;
  return answered;
}

describe('a swap', () => {
  test('moves the stable address to the new model without a failed request, and stops the old one', async () => {
    const { api, page } = await deploy(releaseOf(home, 'one'));
    expect(await answeringRun(api.url)).toBe('one');
    expect(await (await fetch(page.url)).text()).toBe(`chat with cards at ${api.url}`);
    const answered = await underLoad(api.url, () => swap(releaseOf(home, 'two', { answerMs: 30 })));
    expect([answered[0], answered.at(-1)]).toEqual(['one', 'two']);
    expect(servedRuns(home, ['one', 'two'])).toEqual(['two']);
    expect((await current()).api).toEqual(api);
    expect(await events()).toEqual([
      ['deployed', 'one', 'one'],
      ['deployed', 'two', 'two'],
    ]);
  });

  test('asked for again changes nothing', async () => {
    const release = releaseOf(home, 'one');
    await swap(release);
    const before = await readDeployment(home, 'cards');
    expect(await swap(release)).toEqual({ outcome: 'deployed', deployment: before });
    expect(await events()).toHaveLength(1);
  });

  test('to the model that serves, its server having died, starts that again', async () => {
    const { api, champion } = await deploy(releaseOf(home, 'one'));
    process.kill((champion.server as { pid: number }).pid, 'SIGKILL');
    await eventually(() => servedRuns(home, ['one']).length === 0);
    await deploy(releaseOf(home, 'one'), { id: 'again' });
    expect(servedRuns(home, ['one'])).toEqual(['one']);
    expect(await answeringRun(api.url)).toBe('one');
  });

  test('to the model that serves, its page having died, leaves its server alone', async () => {
    const { pageServer, champion } = await deploy(releaseOf(home, 'one'));
    process.kill((pageServer as { pid: number }).pid, 'SIGKILL');
    await eventually(async () => !(await serverRuns(pageServer)));
    const { api, page, champion: after } = await deploy(releaseOf(home, 'one'), { id: 'again' });
    expect(after.server).toEqual(champion.server);
    expect(await (await fetch(page.url)).text()).toBe(`chat with cards at ${api.url}`);
  });

  test('to the same model served otherwise is one as to another, without a failed request', async () => {
    const one = releaseOf(home, 'one', { healthyAfterMs: 300 });
    const { api, champion } = await deploy(one);
    const otherwise = { ...one, serving: { ...one.serving, maxNewTokens: 7 } };
    await underLoad(api.url, () => swap(otherwise, { id: 'otherwise' }));
    const now = await current();
    expect(now.champion.serving.maxNewTokens).toBe(7);
    expect(now.champion.server).not.toEqual(champion.server);
    expect(processesWith(one.modelDir)).toHaveLength(1);
  });

  test('in place holds the requests while the champion makes room', async () => {
    const { api } = await deploy(releaseOf(home, 'one'));
    const two = releaseOf(home, 'two', { healthyAfterMs: 700 });
    const answered = await underLoad(api.url, () => swap(two, { placement: 'in-place' }));
    expect([answered[0], answered.at(-1)]).toEqual(['one', 'two']);
    expect(servedRuns(home, ['one', 'two'])).toEqual(['two']);
  });
});

describe('a candidate that is no good never stays champion', () => {
  const bad: [string, object, 'beside' | 'in-place', RegExp][] = [
    ['cannot be loaded', { exitCode: 1 }, 'beside', /the model cannot be loaded/],
    ['cannot be loaded', { exitCode: 1 }, 'in-place', /the model cannot be loaded/],
    ['cannot answer', { neverHealthy: true }, 'in-place', /not healthy: 503 /],
  ];
  test.each(bad)('one that %s (%p, %s)', async (_, behavior, placement, message) => {
    const { api } = await deploy(releaseOf(home, 'one'));
    const answered = await underLoad(api.url, async () => {
      await expect(swap(releaseOf(home, 'two', behavior), { placement })).rejects.toThrow(message);
    });
    expect(answered).toEqual(['one']);
    expect(servedRuns(home, ['one', 'two'])).toEqual(['one']);
    expect(await events()).toEqual([['deployed', 'one', 'one']]);
  });

  const failing: [string, object, 'beside' | 'in-place', RegExp][] = [
    ['answers wrong in service', { answersWrongAfterMs: 1 }, 'beside', /answers "nonsense" instead of "right"/],
    ['answers wrong in service', { answersWrongAfterMs: 1 }, 'in-place', /answers "nonsense" instead of "right"/],
    ['dies in service', { diesAfterMs: 1500 }, 'beside', /its server has ended/],
    ['dies in service', { diesAfterMs: 1500 }, 'in-place', /its server has ended/],
  ];
  test.each(failing)('one that %s is rolled back (%p, %s)', async (_, behavior, placement, why) => {
    const { api } = await deploy(releaseOf(home, 'one'));
    const result = await swap(releaseOf(home, 'two', behavior), { placement, bakeSeconds: 20 });
    expect(result).toMatchObject({ outcome: 'rolledBack', why: expect.stringMatching(why) });
    expect(await answeringRun(api.url)).toBe('one');
    expect(servedRuns(home, ['one', 'two'])).toEqual(['one']);
    expect(await events()).toEqual([
      ['deployed', 'one', 'one'],
      ['rolledBack', 'two', 'one'],
    ]);
  });

  test('the first of its name leaves nothing behind', async () => {
    const result = await swap(releaseOf(home, 'one', { answersWrongAfterMs: 1 }));
    expect(result).toMatchObject({ outcome: 'rolledBack', deployment: null });
    expect(await readDeployment(home, 'cards')).toBeUndefined();
    expect(servedRuns(home, ['one'])).toEqual([]);
    expect(await events()).toEqual([['rolledBack', 'one', null]]);
  });

  test('a cancel while it is watched undoes the swap', async () => {
    await swap(releaseOf(home, 'one'));
    const controller = new AbortController();
    const options = { bakeSeconds: 60, signal: controller.signal, isUnwanted: () => controller.signal.aborted };
    const swapping = swap(releaseOf(home, 'two'), options);
    while ((await readDeployment(home, 'cards'))?.champion.runName !== 'two') await sleep(20);
    controller.abort(new Error('cancelled'));
    await expect(swapping).rejects.toThrow('cancelled');
    expect((await current()).champion.runName).toBe('one');
    expect(servedRuns(home, ['one', 'two'])).toEqual(['one']);
  });
});

describe('a worker killed in the middle of a swap', () => {
  const record = () => readDeployment(home, 'cards');
  const candidateFile = (release: Release) =>
    join(deploymentFolder(home, 'cards'), 'candidates', `${modelKey(release, release.place)}.json`);
  const moments: [string, (two: Release) => boolean | Promise<boolean>][] = [
    ['before it starts anything', () => true],
    ['when the candidate has just been started', () => processesWith(releaseFolder(home, 'two')).length > 0],
    ['when the candidate is recorded', (two) => existsSync(candidateFile(two))],
    [
      'when the candidate is recorded as healthy',
      async (two) => typeof (await readJson<RecordedCandidate>(candidateFile(two)))?.server?.port === 'number',
    ],
    ['when the swap is recorded', async () => (await record())?.champion.runName === 'two'],
    [
      'when the candidate has become champion',
      async (two) => (await record())?.swap?.workflowId === 'two' && !existsSync(candidateFile(two)),
    ],
    [
      'when what served before is stopped',
      async () => (await record())?.champion.runName === 'two' && servedRuns(home, ['one']).length === 0,
    ],
    ['when its history is written', () => readFileSync(historyFile(home), 'utf8').includes('"two"')],
  ];

  test.each(
    moments.flatMap(([when, killWhen]) =>
      (['beside', 'in-place'] as const).map((mode) => [when, mode, killWhen] as const),
    ),
  )('%s (%s): the next attempt ends with exactly one champion', async (_, placement, killWhen) => {
    await swapInProcess(releaseOf(home, 'one'), {});
    const two = releaseOf(home, 'two', { healthyAfterMs: 150 });
    await swapInProcess(two, { placement, bakeSeconds: 0.5 }, () => killWhen(two));
    expect(await swapInProcess(two, { placement, bakeSeconds: 0.5 })).toEqual({ outcome: 'deployed' });
    expect(servedRuns(home, ['one', 'two'])).toEqual(['two']);
    const { api, swap: unproved } = await current();
    expect(unproved).toBeNull();
    expect(await answeringRun(api.url)).toBe('two');
    expect(await events()).toEqual([
      ['deployed', 'one', 'one'],
      ['deployed', 'two', 'two'],
    ]);
    expect(existsSync(candidateFile(two))).toBe(false);
  });

  const rollbackMoments: [string, () => boolean | Promise<boolean>][] = [
    ['its history is written', () => true],
    [
      'requests go to what served before',
      async () => {
        const { champion, swap: unproved, front } = (await record()) as Deployment;
        const previous = unproved?.previous ?? champion;
        return (await pointedAt(front, 'api')) === previous.server?.port;
      },
    ],
    ['it is recorded', async () => (await record())?.champion.runName === 'one'],
  ];

  test.each(
    rollbackMoments.flatMap(([when, killWhen]) =>
      (['beside', 'in-place'] as const).map((mode) => [when, mode, killWhen] as const),
    ),
  )('in a rollback, when %s (%s): the next attempt ends it', async (_, placement, killWhen) => {
    await swapInProcess(releaseOf(home, 'one'), {});
    const two = releaseOf(home, 'two', { answersWrongAfterMs: 1 });
    const rolledBack = async () => readFileSync(historyFile(home), 'utf8').includes('rolledBack') && (await killWhen());
    await swapInProcess(two, { placement, bakeSeconds: 20 }, rolledBack);
    expect(await swapInProcess(two, { placement, bakeSeconds: 20 })).toMatchObject({ outcome: 'rolledBack' });
    expect(servedRuns(home, ['one', 'two'])).toEqual(['one']);
    expect(await answeringRun((await current()).api.url)).toBe('one');
    expect(await events()).toEqual([
      ['deployed', 'one', 'one'],
      ['rolledBack', 'two', 'one'],
    ]);
  });

  test('and never started again: what served before serves again once the swap is settled', async () => {
    await swapInProcess(releaseOf(home, 'one'), {});
    const two = releaseOf(home, 'two');
    await swapInProcess(two, { bakeSeconds: 60 }, async () => (await record())?.champion.runName === 'two');
    await settleAbandonedSwap((await record()) as Deployment);
    expect(await answeringRun((await current()).api.url)).toBe('one');
    expect(servedRuns(home, ['one', 'two'])).toEqual(['one']);
  });
});

describe('a candidate', () => {
  const options = () => ({ signal: new AbortController().signal, report: () => {} });

  test('that is discarded gives the champion its place back', async () => {
    const { api } = await deploy(releaseOf(home, 'one'));
    const two = releaseOf(home, 'two');
    const candidate = await startCandidate(two, two.place, { ...options(), placement: 'in-place' });
    expect(servedRuns(home, ['one', 'two'])).toEqual(['two']);
    const held = answeringRun(api.url);
    await discardCandidate(candidate);
    expect(await held).toBe('one');
    expect(servedRuns(home, ['one', 'two'])).toEqual(['one']);
  });

  test.each(['beside', 'in-place'] as const)(
    'whose worker died while it started (%s) is known and can be stopped',
    async (placement) => {
      await swapInProcess(releaseOf(home, 'one'), {});
      const two = releaseOf(home, 'two', { healthyAfterMs: 4_000 });
      await swapInProcess(two, { placement }, () => servedRuns(home, ['two']).length > 0);
      const [candidate] = await listCandidates(home);
      expect(candidate).toMatchObject({ runName: 'two', server: null });
      await discardCandidate(candidate as RecordedCandidate);
      expect(servedRuns(home, ['one', 'two'])).toEqual(['one']);
      expect(await answeringRun((await current()).api.url)).toBe('one');
      expect(await listCandidates(home)).toEqual([]);
    },
  );

  test('is the champion itself where that serves the model already', async () => {
    const one = releaseOf(home, 'one');
    const { champion } = await deploy(one);
    const candidate = await startCandidate(one, one.place, { ...options(), placement: 'in-place' });
    expect(candidate.server).toEqual(champion.server);
    await discardCandidate(candidate);
    expect((await current()).champion).toEqual(champion);
  });

  test('runs beside the champion where that fits into memory, else in its place', async () => {
    await swap(releaseOf(home, 'one', { memoryBytes: 1e6 }));
    const two = releaseOf(home, 'two', { memoryBytes: 1e18 });
    const beside = await startCandidate(two, two.place, { ...options(), placement: 'auto' });
    expect(beside.placement).toMatchObject({ mode: 'beside', reason: expect.stringMatching(/977 KiB.*free/) });
    await discardCandidate(beside);
    await swap(two);
    const three = releaseOf(home, 'three');
    const inPlace = await startCandidate(three, three.place, { ...options(), placement: 'auto' });
    expect(inPlace.placement.mode).toBe('in-place');
    await discardCandidate(inPlace);
  });
});

test('the champion before is the last one that proved itself and was not rolled back', async () => {
  await swap(releaseOf(home, 'one'));
  await swap(releaseOf(home, 'two'));
  await swap(releaseOf(home, 'three', { answersWrongAfterMs: 1 }));
  const history = await readHistory(home, 'cards');
  const { champion } = await current();
  expect(champion.runName).toBe('two');
  expect(championBefore(history, champion)?.model.runName).toBe('one');
  expect(championBefore(history, champion, 'three')).toBeUndefined();
  expect(championBefore(history, { modelDigest: releaseOf(home, 'one').modelDigest })?.model.runName).toBe('two');
});

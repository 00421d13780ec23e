import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { evaluateModel, type EvaluateModelInput, type EvaluateModelResult } from '../../activities/evaluate-model.ts';
import { deployModel } from '../../activities/deploy-model.ts';
import { listCandidates, startCandidate } from '../../host/deployment/candidates.ts';
import { findDeployment, type GoldenQuestion } from '../../host/deployment/deployments.ts';
import type { Placement } from '../../host/deployment/placement.ts';
import { pairedBootstrap } from '../../host/judging/paired-bootstrap.ts';
import type { Evaluation } from '../../host/judging/evaluation.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { readJson } from '../../host/state-file.ts';
import { modelOf, placeOf } from '../../activities/served-model.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { judgingHost, knowing, NUMBERS, questionAbout, type JudgingHost } from '../support/judged.ts';
import { answeringRun, deploy, releaseOf, servedRuns, stopAllServed, type Behavior } from '../support/served.ts';

// Real HAProxy, real processes; the models answer as their behavior.json says.
jest.setTimeout(60_000);

let home: string;
let host: JudgingHost;
beforeEach(() => {
  home = newFolder();
  host = judgingHost(home);
});
afterEach(() => stopAllServed(home));

const everyRow = NUMBERS.map((number) => ({ text: questionAbout(number), pictures: 1 }));

describe('with no champion', () => {
  test('base and candidate are asked the same rows, and the candidate stays, to be swapped in', async () => {
    const result = await judge('first', { answers: knowing(6) });
    expect(result.scores).toMatchObject({
      base: { rows: 8, score: 0.25, exactMatch: 0.25 },
      candidate: { rows: 8, score: 0.75, metric: 'exact' },
      champion: null,
    });
    expect(host.asked('base')).toEqual(everyRow);
    expect(host.asked('first')).toEqual(everyRow);
    expect(result).toMatchObject({ comparison: null, verdict: { passed: true, headline: 'passed maxRegression' } });
    expect(result.verdict.checks[0]?.sentence).toBe('no champion to compare with');
    expect(result.headline).toBe('25.0 % → 75.0 % on 8 held-out rows');
    expect(servedRuns(home, ['first'])).toEqual(['first']);
  });

  test('evaluation.json says what was asked, answered and found, and where', async () => {
    const result = await judge('first', { answers: { ...knowing(8), [questionAbout('one')]: 'no idea' } });
    const record = await recordOf('first');
    expect(record).toMatchObject({ verdict: result.verdict, scores: result.scores, memoryBytes: 2000 });
    expect(record.placement).toEqual({ mode: 'beside', reason: 'deploy.placement: beside' });
    expect(record.rows).toHaveLength(8);
    const [one, two] = record.rows;
    expect(one).toEqual({
      ...{ question: `<image>${questionAbout('one')}`, images: [join(home, 'one.png')], expected: 'one' },
      ...{ base: 'one', candidate: 'no idea', champion: null, scores: { base: 1, candidate: 0, champion: null } },
    });
    expect(two).toMatchObject({ candidate: 'two' });
    const messages = [{ role: 'user', content: `<image>${questionAbout('two')}` }];
    expect(record.golden).toEqual({ messages, images: [join(home, 'two.png')], answer: 'two' });
  });

  test('at most maxRows are asked, and one that knows none has no golden question', async () => {
    const result = await judge('first', { answers: knowing(0) }, { evaluate: { maxRows: 3 } });
    expect(result.scores.candidate.rows).toBe(3);
    expect(host.asked('first')).toEqual(everyRow.slice(0, 3));
    expect((await recordOf('first')).golden).toBeNull();
  });

  test('passed, it is stopped when a person has to approve it or nothing is deployed', async () => {
    await judge('waits', { answers: knowing(6) }, { deploy: { approval: 'manual' } });
    await judge('undeployed', { answers: knowing(6) }, { deploy: { enabled: false } });
    expect(servedRuns(home, ['waits', 'undeployed'])).toEqual([]);
    expect(await listCandidates(home)).toEqual([]);
  });

  test('one that fails a gate is stopped', async () => {
    const { verdict } = await judge('first', { answers: knowing(6) }, { gates: { minScore: 0.8 } });
    expect(verdict.headline).toBe(
      'failed minScore: its exact match is 0.75 on 8 held-out rows, below the 0.8 that is wanted',
    );
    expect(servedRuns(home, ['first'])).toEqual([]);
  });
});

describe('against a champion', () => {
  test('a better one is compared on the same rows, with an interval, and both serve', async () => {
    const { api } = await champion({ answers: knowing(4) });
    const result = await judge('second', { answers: knowing(7) });
    expect(host.asked('champion')).toEqual(everyRow);
    expect(result.scores).toMatchObject({
      base: { score: 0.25 },
      champion: { score: 0.5 },
      candidate: { score: 0.875 },
    });
    expect(result.comparison).toEqual(pairedBootstrap(rightFor(7), rightFor(4)));
    expect(result).toMatchObject({
      comparison: { meanDifference: 0.375, wins: 3, losses: 0, ties: 5, low: 0.125, high: 0.75 },
      verdict: { passed: true },
      headline: '25.0 % → 87.5 % on 8 held-out rows; champion 50.0 %, difference 12.5 % to 75.0 %',
    });
    expect(servedRuns(home, ['champion', 'second'])).toEqual(['champion', 'second']);
    expect(await answeringRun(api.url)).toBe('champion');
  });

  test('a worse one fails maxRegression and is stopped, and the champion serves on', async () => {
    const { api } = await champion({ answers: knowing(7) });
    const { verdict, headline } = await judge('second', { answers: knowing(4) });
    expect(verdict.passed).toBe(false);
    expect(verdict.headline).toMatch(
      /^failed maxRegression: its mean score is 0\.375 below the champion's on the same 8 rows \(95 % interval .* distinguishable from none\); at most 0\.02 below is allowed$/,
    );
    expect(headline).toContain(verdict.headline);
    await onlyChampionServes(api.url);
  });

  test('in its place: it is stopped meanwhile and serves again when the candidate is rejected', async () => {
    const gpu = join(home, 'gpu');
    const inPlace = { deploy: { placement: 'in-place' as const } };
    onOneGpu(gpu);
    const { api } = await champion({ answers: knowing(7), gpu });
    const judging = judge('second', { answers: knowing(4), gpu, answerMs: 100 }, inPlace);
    const answered = await whileAsking(api.url, judging);
    const result = await judging;
    expect(result.verdict.passed).toBe(false);
    expect(answered).toEqual(['champion']);
    expect((await recordOf('second')).placement.mode).toBe('in-place');
    await onlyChampionServes(api.url);
  });

  test('in its place, by an attempt whose worker died: the next one gives the champion its memory back', async () => {
    const gpu = join(home, 'gpu');
    onOneGpu(gpu);
    const { api } = await champion({ answers: knowing(4), gpu });
    const input = await host.run('second', { answers: knowing(7), gpu }, { deploy: { placement: 'in-place' } });
    const context = host.context('second');
    const options = { placement: 'in-place' as const, signal: context.signal, report: () => {} };
    await startCandidate(modelOf(input, 'second'), placeOf(input.config, context), options);
    expect(servedRuns(home, ['champion', 'second'])).toEqual(['second']);
    expect((await evaluateModel(input, context)).scores.champion?.score).toBe(0.5);
    expect(servedRuns(home, ['champion', 'second'])).toEqual(['second']);
    const { outcome } = await deployModel({ ...input, digests, evaluation: null, approval: null }, context);
    expect(outcome).toBe('deployed');
    expect(await answeringRun(api.url)).toBe('second');
  });

  test("its answers and the base's are asked for once, but again for longer ones", async () => {
    await champion({ answers: knowing(4) });
    const first = await judge('second', { answers: knowing(6) });
    const second = await judge('third', { answers: knowing(5) });
    expect([second.scores.base, second.scores.champion]).toEqual([first.scores.base, first.scores.champion]);
    expect(['base', 'champion', 'third'].map((who) => host.asked(who).length)).toEqual([8, 8, 8]);
    await judge('fourth', { answers: knowing(5) }, { evaluate: { maxNewTokens: 64 } });
    expect(['base', 'champion'].map((who) => host.asked(who).length)).toEqual([16, 16]);
  });

  test('one that answers with errors is no standard to keep to, and the verdict says so', async () => {
    await champion({ answers: knowing(8) });
    releaseOf(home, 'champion', { status: 500 });
    const { verdict, scores, comparison } = await judge('second', { answers: knowing(1) });
    expect(scores.champion).toBeNull();
    expect(comparison).toBeNull();
    expect(verdict.passed).toBe(true);
    expect(verdict.checks[0]?.sentence).toMatch(/^the champion answers no more: .* answered 500/);
  });

  test('one whose server has ended is said to answer no more', async () => {
    const { champion: released } = await champion({ answers: knowing(8) });
    process.kill((released.server as { pid: number }).pid, 'SIGKILL');
    const { verdict } = await judge('second', { answers: knowing(1) });
    expect(verdict.checks[0]?.sentence).toMatch(/^the champion answers no more: /);
  });

  test('the model that became champion is not judged again', async () => {
    const input = await host.run('second', { answers: knowing(6) });
    const result = await evaluateModel(input, host.context('second'));
    const { attempt: _, ...evaluation } = result;
    await deployModel({ ...input, digests, evaluation, approval: null }, host.context('second'));
    expect(await evaluateModel(input, host.context('second', { attempt: 2 }))).toEqual(result);
    expect(host.asked('second').filter(({ pictures }) => pictures > 0).length).toBeLessThan(11); // golden ones beside
    expect((await findDeployment(home, 'cards'))?.champion.runName).toBe('second');
  });
});

describe('a candidate that cannot be judged leaves nothing running but the champion', () => {
  const failing: [string, Behavior, 'beside' | 'in-place', RegExp][] = [
    [
      'answers with an error',
      { status: 500 },
      'beside',
      /^The candidate could not answer a held-out row: .* answered 500/,
    ],
    ['answers with an error', { status: 500 }, 'in-place', /^The candidate could not answer a held-out row/],
    ['cannot be loaded', { exitCode: 1 }, 'in-place', /^The api did not start:\nserve.py: the model cannot be loaded/],
  ];
  test.each(failing)('one that %s (%p, %s)', async (_, behavior, placement, message) => {
    const { api } = await champion({ answers: knowing(4) });
    const judging = judge('second', behavior, { deploy: { placement } });
    await expect(judging).rejects.toMatchObject({ name: 'DeploymentError', message: expect.stringMatching(message) });
    await onlyChampionServes(api.url);
    expect(await listCandidates(home)).toEqual([]);
    expect(existsSync(openRunDirectory(home, 'second').evaluation)).toBe(false);
  });

  test('one whose attempt is ended', async () => {
    const { api } = await champion({ answers: knowing(4) });
    const input = await host.run('second', { answers: knowing(4), answerMs: 400 });
    const controller = new AbortController();
    const report = ({ asking }: Record<string, unknown>) =>
      asking === 'candidate' && controller.abort(new Error('over'));
    const context = host.context('second', { signal: controller.signal, report: (details) => void report(details) });
    await expect(evaluateModel(input, context)).rejects.toThrow('over');
    await onlyChampionServes(api.url);
  });
});

describe('gates and scores', () => {
  test('the scorer of evaluate.scorer scores the rows, which it is given with their pictures', async () => {
    const program = `
      for (const line of require('fs').readFileSync(0, 'utf8').trim().split('\\n')) {
        const { images, expected, answer } = JSON.parse(line);
        const pictured = require('fs').readFileSync(images[0], 'utf8').includes(expected);
        console.log(pictured && answer === expected ? 0.5 : 0);
      }`;
    const scorer = [process.execPath, '-e', program];
    const { scores } = await judge('first', { answers: knowing(6) }, { evaluate: { scorer } });
    expect(scores).toMatchObject({
      base: { score: 0.125 },
      candidate: { metric: 'own', score: 0.375, exactMatch: 0.75 },
    });
  });

  test('a scorer that fails is a ConfigError, and the candidate is stopped', async () => {
    const evaluate = { scorer: ['false'] };
    await expect(judge('first', { answers: knowing(6) }, { evaluate })).rejects.toMatchObject({ name: 'ConfigError' });
    expect(servedRuns(home, ['first'])).toEqual([]);
  });

  test.each([
    [3, true],
    [1, false],
  ])('maxMemoryGiB goes by what the server says of its memory, also behind a key (%p GiB)', async (limit, passed) => {
    process.env.TEMPER_TEST_KEY = 'secret';
    const changes = { gates: { maxMemoryGiB: limit }, deploy: { apiKeyEnv: 'TEMPER_TEST_KEY' } };
    const { verdict } = await judge('first', { answers: knowing(6), memoryBytes: 2 * 2 ** 30 }, changes);
    expect(verdict.checks.find(({ gate }) => gate === 'maxMemoryGiB')).toMatchObject({ found: 2, passed });
  });
});

describe('with no held-out rows', () => {
  test('the candidate is started and proved healthy, and passes without gates', async () => {
    const result = await judge('first', { healthyAfterMs: 300 }, {}, []);
    expect(result).toMatchObject({ scores: { base: null, candidate: { rows: 0 }, champion: null } });
    expect(result).toMatchObject({ verdict: { passed: true }, headline: 'it answers; no rows are held out' });
    expect(servedRuns(home, ['first'])).toEqual(['first']);
  });

  test('minScore fails, since it cannot be judged', async () => {
    const { headline } = await judge('first', {}, { gates: { minScore: 0.1 } }, []);
    expect(headline).toBe(
      "it answers; no rows are held out; failed minScore: it can't be judged: no rows were held out to score it on",
    );
    expect(servedRuns(home, ['first'])).toEqual([]);
  });

  test('one that does not start fails', async () => {
    await expect(judge('first', { exitCode: 1 }, {}, [])).rejects.toMatchObject({ name: 'DeploymentError' });
  });
});

const digests: { config: string; dataset: string; base: string; adapter: string } = {
  ...{ config: 'config', dataset: 'rows', base: 'base', adapter: 'adapter' },
};

async function judge(...[runName, ...how]: Parameters<JudgingHost['run']>): Promise<EvaluateModelResult> {
  const input: EvaluateModelInput = await host.run(runName, ...how);
  return evaluateModel(input, host.context(runName));
}

async function champion(behavior: Behavior) {
  const release = releaseOf(home, 'champion', { requestLog: host.requestLog('champion'), ...behavior });
  return deploy({ ...release, golden: null });
}

async function onlyChampionServes(apiUrl: string): Promise<void> {
  expect(servedRuns(home, ['champion', 'second', 'base'])).toEqual(['champion']);
  expect(await answeringRun(apiUrl)).toBe('champion');
  expect((await findDeployment(home, 'cards'))?.champion.runName).toBe('champion');
}

/** Have the base, too, need the one GPU. */
function onOneGpu(gpu: string): void {
  host = judgingHost(home, { gpu });
}

/** Ask at the stable address all the while; the runs that answered. */
async function whileAsking(apiUrl: string, work: Promise<unknown>): Promise<string[]> {
  let done = false;
  const ended = work.finally(() => (done = true));
  const answered = new Set<string>();
  while (!done) answered.add(String(await answeringRun(apiUrl)));
  await ended;
  return [...answered];
}

function rightFor(count: number): number[] {
  return NUMBERS.map((_, index) => (index < count ? 1 : 0));
}

interface EvaluationRecord extends Evaluation {
  golden: GoldenQuestion | null;
  placement: Placement;
  memoryBytes: number;
}

async function recordOf(runName: string): Promise<EvaluationRecord> {
  return (await readJson<EvaluationRecord>(openRunDirectory(home, runName).evaluation)) as EvaluationRecord;
}

/**
 * Puts real models into service as containers of the serving image, on the local Docker engine and the CPU. Not part of
 * `npm test`: run it with `npm run test:docker`. Everything of it has a temporary home in its labels, and is removed afterwards.
 */
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { execa } from 'execa';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ask } from '../../host/chat-api.ts';
import { respondsProblem } from '../../host/deployment/health.ts';
import { readDeployment, type Deployment, type Release } from '../../host/deployment/deployments.ts';
import { readHistory } from '../../host/deployment/history.ts';
import { deploymentFolder, modelKey } from '../../host/deployment/model-server.ts';
import { containerLabels, imageId } from '../../host/docker.ts';
import { messageOf } from '../../host/errors.ts';
import { deploy, stopAllServed, swap, swapInProcess } from '../support/served.ts';

jest.setTimeout(600_000);

const root = fileURLToPath(new URL('../..', import.meta.url));
const image = 'qwen3-vl-webui:latest';
const question = {
  messages: [{ role: 'user', content: '<image>Whose badge is this?' }],
  images: [join(root, 'demo/cards/images/0006.png')],
};

/** What these tests look at in `docker inspect`. */
interface Inspected {
  Args: string[];
  Config: { User: string; Labels: Record<string, string> };
  HostConfig: {
    Privileged: boolean;
    ReadonlyRootfs: boolean;
    CapDrop: string[];
    SecurityOpt: string[];
    RestartPolicy: { Name: string };
  };
  Mounts: { Type: string; Source: string; RW: boolean }[];
  State: { Pid: number };
}

let home: string;
let first: Deployment;
/** What every undamaged model answers. */
let answer: string;

beforeAll(async () => {
  if ((await imageId(image)) === undefined)
    throw new Error(`this test needs a Docker engine with the image: docker build -f serving/Dockerfile -t ${image} .`);
  home = mkdtempSync(join(tmpdir(), 'temper-serving-'));
  first = await deploy(release('first'));
  ({ text: answer } = await ask(question, { apiUrl: first.api.url, model: 'cards' }));
});

afterAll(async () => {
  if (home === undefined) return;
  await stopAllServed(home);
  rmSync(home, { recursive: true });
  expect(await containers()).toEqual([]);
});

/** A release of a run of its own: the tiny base, after `damage` to its folder. */
function release(runName: string, damage: (folder: string) => void = () => {}): Release {
  const modelDir = join(home, 'models', runName);
  cpSync(join(root, 'demo/tiny-qwen3-vl'), modelDir, { recursive: true });
  damage(modelDir);
  return {
    ...{ runName, modelDir, modelDigest: Buffer.from(runName).toString('hex').padEnd(64, '0') },
    serving: { template: 'qwen3_vl_nothink', maxNewTokens: 16, cpu: true },
    place: { home, name: 'cards', runtime: 'docker', image },
    golden: answer === undefined ? null : { ...question, answer },
  };
}

function editJson(file: string, edit: (value: Record<string, unknown>) => void): void {
  const value = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  edit(value);
  writeFileSync(file, JSON.stringify(value));
}

async function docker(...args: string[]): Promise<string> {
  return (await execa('docker', args)).stdout;
}

/** All containers of the home, as `role run`; the run is empty but for APIs. */
async function containers(): Promise<string[]> {
  const format = '{{.Label "temper.role"}} {{.Label "temper.run"}}';
  const listed = await docker('ps', '--all', '--filter', `label=temper.home=${home}`, '--format', format);
  return listed.split('\n').filter(Boolean).sort();
}

async function inspect(container: string): Promise<Inspected> {
  return (JSON.parse(await docker('inspect', container)) as [Inspected])[0];
}

async function current(): Promise<Deployment> {
  const deployment = await readDeployment(home, 'cards');
  if (deployment === undefined) throw new Error('nothing is recorded');
  return deployment;
}

function containerOf(server: Deployment['front'] | Deployment['pageServer'] | null): string {
  if (server?.runtime !== 'docker') throw new Error('no container');
  return server.containerId;
}

/** The run that says at the stable address that it can answer. */
async function servingRun(): Promise<string> {
  const response = await fetch(`${first.api.url}/health`);
  return ((await response.json()) as { run: string }).run;
}

/** Exactly one model, one page and one address, where they always were, and the model answers. */
async function expectInService(runName: string): Promise<void> {
  expect(await containers()).toEqual([`api ${runName}`, 'front ', 'page ']);
  const { champion, swap: unproved, api, page } = await current();
  expect([champion.runName, unproved]).toEqual([runName, null]);
  expect([api, page]).toEqual([first.api, first.page]);
  expect(await servingRun()).toBe(runName);
  expect((await ask(question, { apiUrl: api.url, model: 'cards' })).text).toBe(answer);
}

/** As a crash does it; `docker kill` counts as a stop that somebody asked for, after which no restart policy acts. */
async function crash(container: string): Promise<void> {
  const { State } = await inspect(container);
  const program = ['--entrypoint', 'sh', image, '-c', `kill -9 ${State.Pid}`];
  await docker('run', '--rm', '--pid', 'host', '--user', '0', ...program);
}

async function untilTrue(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 180_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error('not within 180 s');
    await sleep(300);
  }
}

async function events(): Promise<[string, string, string | null][]> {
  return (await readHistory(home, 'cards')).map(({ event, model, serves }) => [event, model.runName, serves]);
}

describe('what is in service', () => {
  test('answers a question about a picture, and has a chat page', async () => {
    await expectInService('first');
    expect(answer).not.toBe('');
    const page = await fetch(first.page.url);
    expect([page.status, /og:title" content="cards"/.test(await page.text())]).toEqual([200, true]);
  });

  test('can be told by its labels', async () => {
    const { champion } = await current();
    expect(await containerLabels(containerOf(champion.server))).toMatchObject({
      ...{ 'temper.home': home, 'temper.deployment': 'cards', 'temper.role': 'api' },
      ...{ 'temper.run': 'first', 'temper.model-digest': champion.modelDigest },
    });
  });

  test('runs confined, on loopback, and comes back after a reboot', async () => {
    const { champion, pageServer, front } = await current();
    const [api, page, address] = await Promise.all([champion.server, pageServer, front].map(containerOf).map(inspect));
    for (const container of [api, page, address])
      expect(container?.HostConfig).toMatchObject({
        ...{ Privileged: false, ReadonlyRootfs: true, CapDrop: ['ALL'], SecurityOpt: ['no-new-privileges'] },
        RestartPolicy: { Name: 'unless-stopped' },
      });
    expect([api?.Config.User, page?.Config.User]).toEqual(['10001', '10001']);
    expect(address?.Config.User).toBe(`${process.getuid?.()}:${process.getgid?.()}`);
    expect(api?.Mounts).toMatchObject([{ Source: champion.modelDir, RW: false }]);
    expect(page?.Mounts.filter(({ Type }) => Type === 'bind')).toEqual([]);
    expect(address?.Mounts.filter(({ Type }) => Type === 'bind')).toMatchObject([{ Source: front.folder }]);
    expect(api?.Args.join(' ')).toContain('--host 127.0.0.1');
  });
});

describe('a swap', () => {
  test.each(['beside', 'in-place'] as const)('%s replaces the container and keeps the addresses', async (placement) => {
    const { champion } = await current();
    await deploy(release(placement), { placement });
    await expectInService(placement);
    expect(await containerLabels(containerOf(champion.server))).toBeUndefined();
    expect((await events()).at(-1)).toEqual(['deployed', placement, placement]);
  });
});

test.each(['champion', 'front', 'page'] as const)('a %s that is killed comes back by itself', async (which) => {
  const { champion, front, pageServer } = await current();
  const container = containerOf({ champion: champion.server, front, page: pageServer }[which]);
  const { State } = await inspect(container);
  await crash(container);
  await untilTrue(async () => ![0, State.Pid].includes((await inspect(container)).State.Pid));
  const asked =
    which === 'champion' ? [0, 1, 2].map(() => ask(question, { apiUrl: first.api.url, model: 'cards' })) : [];
  await untilTrue(() => servingRun().then(Boolean, () => false));
  await untilTrue(async () => (await respondsProblem(first.page.url, new AbortController().signal)) === undefined);
  // Who asks while it starts again waits; only what it was answering when it died is lost.
  expect((await Promise.all(asked)).map(({ text }) => text)).toEqual(asked.map(() => answer));
  await expectInService(champion.runName);
});

test('a folder of links, as a base is judged from, is served', async () => {
  const weights = join(root, 'demo/tiny-qwen3-vl/model.safetensors');
  const linked = release('linked', (folder) => {
    rmSync(join(folder, 'model.safetensors'));
    symlinkSync(weights, join(folder, 'model.safetensors'));
  });
  await deploy(linked);
  await expectInService('linked');
});

describe('a candidate that is no good never stays champion', () => {
  const damages: [string, (folder: string) => void, RegExp][] = [
    ['cut', (folder) => truncateSync(join(folder, 'model.safetensors'), 2_000_000), /is damaged: it has 2000000 bytes/],
    ['of a type that no model has', (folder) => editJson(join(folder, 'config.json'), asInt8), /torch.int8/],
    ['blind', blind, /not healthy: 503 .*The size of tensor/],
  ];
  test.each(damages)('one that is %s', async (what, damage, message) => {
    const { champion } = await current();
    const bad = release(what.replaceAll(' ', '-'), damage);
    const failure = messageOf(await swap(bad, { placement: 'in-place' }).catch((error: unknown) => error));
    expect(failure).toMatch(message);
    expectLogNamed(failure, bad);
    await expectInService(champion.runName);
  });

  test('one that crashes while it is watched is rolled back', async () => {
    const { champion } = await current();
    const bad = release('crashing');
    const swapping = swap(bad, { bakeSeconds: 120 });
    await untilTrue(async () => (await current()).swap?.workflowId === 'crashing');
    await crash(containerOf((await current()).champion.server));
    const result = await swapping;
    const why = result.outcome === 'rolledBack' ? result.why : result.outcome;
    expect(why).toMatch(/its container has (ended|crashed)/);
    expectLogNamed(why, bad);
    await expectInService(champion.runName);
    expect((await events()).at(-1)).toEqual(['rolledBack', 'crashing', champion.runName]);
  });
});

/** The failed container is gone, and what it printed is in the file that the error names. */
function expectLogNamed(message: string, { runName }: Release): void {
  const log = /its log: (\S+)/i.exec(message)?.[1] ?? '';
  expect(log).toContain(runName);
  expect(readFileSync(log, 'utf8')).toMatch(/\S/);
}

function asInt8(config: Record<string, unknown>): void {
  const { text_config: text, vision_config: vision } = config as Record<string, Record<string, unknown>>;
  for (const part of [config, text, vision]) Object.assign(part ?? {}, { dtype: 'int8' });
}

/** Answers text, and fails at a picture: its patches have another size than the model's. */
function blind(folder: string): void {
  const patches = { patch_size: 8 };
  editJson(join(folder, 'preprocessor_config.json'), (config) => Object.assign(config, patches));
  editJson(join(folder, 'processor_config.json'), ({ image_processor: processor }) =>
    Object.assign(processor as object, patches),
  );
}

describe('a worker killed in the middle of a swap', () => {
  const candidateFile = (model: Release) =>
    join(deploymentFolder(home, 'cards'), 'candidates', `${modelKey(model, model.place)}.json`);
  const isChampion = async ({ runName }: Release) => (await current()).champion.runName === runName;
  const moments: [string, (model: Release) => Promise<boolean>][] = [
    ['when the container is being started', async ({ runName }) => (await containers()).includes(`api ${runName}`)],
    ['when the swap is recorded', isChampion],
    ['while it is watched', async (model) => (await isChampion(model)) && !existsSync(candidateFile(model))],
  ];
  test.each(moments)('%s: the next attempt ends with exactly one of each', async (when, killWhen) => {
    const before = await events();
    const next = release(when.replaceAll(' ', '-'));
    expect(await swapInProcess(next, { bakeSeconds: 5 }, () => killWhen(next))).toBeUndefined();
    expect(await swapInProcess(next, { bakeSeconds: 5 })).toEqual({ outcome: 'deployed' });
    await expectInService(next.runName);
    expect(await events()).toEqual([...before, ['deployed', next.runName, next.runName]]);
  });
});

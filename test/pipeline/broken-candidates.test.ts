import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CheckEnvironmentResult } from '../../activities/check-environment.ts';
import { evaluateModel } from '../../activities/evaluate-model.ts';
import { modelOf, placeOf } from '../../activities/served-model.ts';
import type { StageContext } from '../../activities/stage.ts';
import { loadConfig } from '../../configs/load.ts';
import type { ResolvedConfig } from '../../configs/schema.ts';
import { ask, questionOf, type ChatRow } from '../../host/chat-api.ts';
import { checkout } from '../../host/checkout.ts';
import { listCandidates } from '../../host/deployment/candidates.ts';
import { findDeployment, type Deployment } from '../../host/deployment/deployments.ts';
import { putIntoService } from '../../host/deployment/put-into-service.ts';
import { messageOf } from '../../host/errors.ts';
import { processesWith } from '../../host/process-table.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { changeTensor } from '../support/safetensors.ts';
import { stopAllServed } from '../support/served.ts';
import { settingsOf } from '../support/settings.ts';

// Real models behind real HAProxy: the tiny base is champion, and damaged copies of it are judged beside it.
jest.setTimeout(300_000);

const base = join(checkout, 'demo/tiny-qwen3-vl');
const ROWS = 3;
const environment: CheckEnvironmentResult = {
  ...{ precision: 'bf16', training: {}, gpus: [], warnings: [], versions: {}, headline: 'CPU' },
};

let home: string;
let config: ResolvedConfig;
let champion: Deployment;
/** Cards that the champion reads. */
let rows: ChatRow[];

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'temper-broken-'));
  config = configOf();
  const model = { modelDir: copyOfBase('champion'), modelDigest: 'c'.repeat(64) };
  const context = contextOf('champion');
  const release = {
    ...modelOf({ config, environment, model }, 'champion'),
    place: placeOf(config, context),
    golden: null,
  };
  const { host, apiPort, pagePort } = config.deploy;
  const result = await putIntoService(release, {
    ...{ id: 'champion', workflowId: 'champion', address: { host, apiPort, pagePort }, record: {} },
    ...{ bakeSeconds: 0, placement: 'beside', isUnwanted: () => false, signal: context.signal, report: () => {} },
  });
  if (result.outcome !== 'deployed') throw new Error(result.why);
  champion = result.deployment;
  rows = await rowsReadRight();
});
afterAll(async () => {
  await stopAllServed(home);
  rmSync(home, { recursive: true, force: true });
});

const damages: [string, (folder: string) => void, RegExp][] = [
  [
    'its weights are cut short',
    (folder) => truncateSync(join(folder, 'model.safetensors'), 1_000_000),
    /^DeploymentError: .*model\.safetensors is damaged: it has 1000000 bytes where its header wants/s,
  ],
  [
    'its weights overflow in its dtype',
    (folder) => {
      const largest = 0x7f00; // of bfloat16, nearly: 1.7e38, which float16 does not have
      changeTensor(join(folder, 'model.safetensors'), 'model.language_model.norm.weight', () => largest);
      for (const part of [[], ['text_config'], ['vision_config']])
        editJson(join(folder, 'config.json'), part, { dtype: 'float16' });
    },
    /^DeploymentError: .*the scores are not numbers/s,
  ],
  [
    'it fails at the first picture',
    (folder) => {
      editJson(join(folder, 'preprocessor_config.json'), [], { patch_size: 14 });
      editJson(join(folder, 'processor_config.json'), ['image_processor'], { patch_size: 14 });
    },
    /^DeploymentError: The model is not healthy: 503 .*shape/s,
  ],
  [
    'it answers worse',
    (folder) => {
      const negated = (bits: number) => bits ^ 0x8000;
      changeTensor(join(folder, 'model.safetensors'), 'model.language_model.layers.2.self_attn.o_proj.weight', negated);
    },
    /^rejected: failed maxRegression: its mean score is .* below the champion's on the same 3 rows/,
  ],
];

test.each(damages)('%s: it does not become champion', async (name, damage, expected) => {
  const runName = name.replaceAll(/[^a-z]+/g, '-');
  const folder = copyOfBase(runName);
  damage(folder);
  expect(await judged(runName, folder)).toMatch(expected);
  const now = await findDeployment(home, 'cards');
  expect(now).toEqual(champion);
  const [row] = rows as [ChatRow];
  const { question, expected: right } = questionOf(row);
  expect((await ask(question, { apiUrl: champion.api.url, model: 'cards' })).text).toBe(right);
  expect([processesWith(folder), await listCandidates(home)]).toEqual([[], []]);
});

/** What becomes of a candidate: `passed`, or why not. */
async function judged(runName: string, modelDir: string): Promise<string> {
  const context = contextOf(runName);
  mkdirSync(context.run.dataset, { recursive: true });
  writeFileSync(context.run.heldOut, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  const modelDigest = Buffer.from(runName).toString('hex').padEnd(64, '0');
  const dataset = {
    ...{ rows: 9, kept: 9, trainRows: 6, heldOutRows: ROWS, digest: 'cards', reportPath: '', problemCount: 0 },
    headline: '',
  };
  const input = { config, environment, dataset, baseDigest: 'base', model: { modelDir, modelDigest } };
  return evaluateModel(input, context).then(
    ({ verdict }) => (verdict.passed ? 'passed' : `rejected: ${verdict.headline}`),
    (error: Error) => `${error.name}: ${messageOf(error)}`,
  );
}

/** The untrained base reads about a quarter of the cards. */
async function rowsReadRight(): Promise<ChatRow[]> {
  const cards = JSON.parse(readFileSync(join(checkout, 'demo/cards/cards.json'), 'utf8')) as ChatRow[];
  const right: ChatRow[] = [];
  for (const { messages, images } of cards) {
    const row = { messages, images: (images ?? []).map((image) => join(checkout, 'demo/cards', image)) };
    const { question, expected } = questionOf(row);
    if ((await ask(question, { apiUrl: champion.api.url, model: 'cards' })).text === expected) right.push(row);
    if (right.length === ROWS) return right;
  }
  throw new Error('the base reads hardly a card');
}

function copyOfBase(runName: string): string {
  const folder = join(home, 'models', runName);
  cpSync(base, folder, { recursive: true });
  return folder;
}

function editJson(file: string, part: string[], changes: Record<string, unknown>): void {
  const content = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  const edited = part.reduce((within, key) => within[key] as Record<string, unknown>, content);
  Object.assign(edited, changes);
  writeFileSync(file, JSON.stringify(content));
}

function configOf(): ResolvedConfig {
  const demo = loadConfig('demo', {
    ...{ configsFolder: join(checkout, 'configs'), root: checkout, allowedRoots: [checkout], modelsRoot: home },
  });
  const address = { host: '127.0.0.1', apiPort: 0, pagePort: 0 };
  return { ...demo, deploy: { ...demo.deploy, ...address, name: 'cards', placement: 'beside' } };
}

function contextOf(runName: string): StageContext {
  const run = openRunDirectory(home, runName);
  const settings = settingsOf(home);
  return {
    ...{ settings, runName, executionId: runName, run, attempt: 1, owner: runName },
    ...{ signal: new AbortController().signal, report: () => {} },
  };
}

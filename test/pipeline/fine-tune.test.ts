import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import type { WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'yaml';
import { createActivities } from '../../activities/index.ts';
import type { Manifest } from '../../activities/record-run.ts';
import { ask } from '../../host/chat-api.ts';
import { checkout } from '../../host/checkout.ts';
import { listDeployments, stopDeployment } from '../../host/deployment/deployments.ts';
import { digestOfFile } from '../../host/digest.ts';
import { traceModel } from '../../host/lineage.ts';
import type { EvaluatedRow } from '../../host/judging/evaluation.ts';
import { runDirectory, type RunDirectory } from '../../host/run-directory.ts';
import type { HostSettings } from '../../host/settings.ts';
import { readJson } from '../../host/state-file.ts';
import { runProgram } from '../../host/subprocess.ts';
import { lossCurve, readEvents } from '../../host/training-events.ts';
import type { TrainerProcess } from '../../host/trainer-process.ts';
import type { fineTune, FineTuneResult } from '../../workflows/fine-tune.ts';
import type { RunProgress } from '../../workflows/progress.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import { Receiver } from '../support/receiver.ts';
import { tensorTypes } from '../support/safetensors.ts';
import { startServer, withWorkers } from '../support/temporal.ts';
import { settingsOf } from '../support/settings.ts';

// The whole pipeline on the real LLaMA-Factory: one run of the demo's config, looked at from all sides.
jest.setTimeout(1_200_000);

let env: TestWorkflowEnvironment;
let settings: HostSettings;
let handle: WorkflowHandle<typeof fineTune>;
let result: FineTuneResult;
let run: RunDirectory;

/** In the worker's environment. */
const secrets = {
  TEMPER_TEST_API_KEY: 'a-key-of-the-api-5b1f',
  HF_TOKEN: 'hf_a-token-of-the-hub-77c2',
  TEMPER_TEST_HOOK_SECRET: 'SECa-secret-of-the-hook-e01d',
};
const hookKey = 'a-key-of-the-hook-31f7';
let receiver: Receiver;

beforeAll(async () => {
  receiver = await new Receiver().start();
  receiver.answers = [{ body: '{"errcode":0,"errmsg":"ok"}' }];
  const hook = receiver.url(`/robot/send?access_token=${hookKey}`);
  Object.assign(process.env, { ...secrets, TEMPER_TEST_HOOK: hook });
  const home = await mkdtemp(join(tmpdir(), 'temper-pipeline-'));
  settings = settingsOf(home, {
    configsFolder: join(checkout, 'configs'),
    modelsRoot: join(home, 'models'),
    dataRoots: [checkout, home],
  });
  env = await startServer();
  handle = await start('whole', await demoConfig());
  result = await withWorkers(env, createActivities(settings), () => handle.result());
  run = runDirectory(home, 'whole');
}, 1_200_000);

afterAll(async () => {
  for (const deployment of await listDeployments(settings.home)) await stopDeployment(deployment);
  await env.teardown();
  await receiver.stop();
  await rm(settings.home, { recursive: true, force: true });
});

test('the deployed model answers a question about a held-out picture', async () => {
  const [row] = (await readJson<{ rows: EvaluatedRow[] }>(run.evaluation))?.rows ?? [];
  const { question, images, expected } = row as EvaluatedRow;
  const answer = await ask(
    { messages: [{ role: 'user', content: question }], images },
    { apiUrl: result.apiUrl ?? '', model: 'demo' },
  );
  expect(answer.text).toBe(expected);
});

test('the fine-tuned model is clearly better than the base on the held-out rows', () => {
  const { base, candidate } = result.evaluation ?? {};
  expect(base?.rows).toBeGreaterThan(30);
  expect(base?.exactMatch).toBeGreaterThan(0.05);
  expect(candidate?.exactMatch).toBeGreaterThan(0.85);
});

test('the chat page is up and names the model', async () => {
  const page = await fetch(result.pageUrl ?? '');
  expect(page.status).toBe(200);
  expect(await page.text()).toContain('demo');
});

test('the run directory holds every file of the contract', () => {
  const contract = [
    ...['run.json', 'environment.json', 'dataset/report.json', 'dataset/dataset_info.json', 'train/config.yaml'],
    ...['train/output', 'train/trainer.log', 'train/process.json', 'train/events.jsonl', 'merged/merge.json'],
    ...['merged/config.json', 'evaluation.json', 'deployment.json', 'manifest.json', 'report.html'],
  ];
  expect(contract.filter((name) => !existsSync(join(run.path, name)))).toEqual([]);
});

test('every weight that is served is fp16, and config.json says so at every level', async () => {
  const types = Object.values(await tensorTypes(join(run.merged, 'model.safetensors')));
  expect(types.length).toBeGreaterThan(50);
  expect(new Set(types)).toEqual(new Set(['F16']));
  const config = JSON.parse(await readFile(join(run.merged, 'config.json'), 'utf8')) as Record<
    string,
    { dtype?: string }
  >;
  expect([config.dtype, config.text_config?.dtype, config.vision_config?.dtype]).toEqual([
    'float16',
    'float16',
    'float16',
  ]);
});

test("the merge's totals are in the workflow's result", async () => {
  const audit = await readJson<Record<string, number>>(run.mergeAudit);
  const { merged, rounding } = result.merge as NonNullable<FineTuneResult['merge']>;
  expect({ merged, ...rounding }).toEqual(pick(audit, ['merged', ...Object.keys(rounding)]));
  expect(rounding.changed).toBeGreaterThan(0);
});

test("the manifest's digests are those of the files, from the rows to what is served", async () => {
  const manifest = (await readJson<Manifest>(run.manifest)) as Manifest;
  const report = await readJson<{ digest: string }>(run.datasetReport);
  const audit = await readJson<{ baseDigest: string; adapterDigest: string; mergeDigest: string }>(run.mergeAudit);
  expect(manifest.dataset?.digest).toBe(report?.digest);
  expect(manifest.base?.digest).toBe(audit?.baseDigest);
  expect(manifest.adapter?.digest).toBe(await digestOfFile(join(run.trainOutput, 'adapter_model.safetensors')));
  expect(manifest.deployment?.modelDigest).toBe(manifest.merged?.digest);
  expect(manifest.outcome).toBe('deployed');
});

test('what serves is traced back to its rows, every link holding', async () => {
  const { merged } = (await readJson<Manifest>(run.manifest)) as Manifest;
  const served = { by: 'the API', home: settings.home, runName: 'whole', modelDigest: merged?.digest ?? '' };
  const links = await traceModel(served, true);
  expect(links.map(({ link, problems }) => [link, problems])).toEqual(
    ['served', 'run', 'merged', 'adapter', 'base', 'dataset'].map((link) => [link, []]),
  );
});

test('no row is both trained on and held out', async () => {
  const pictures = async (file: string) => {
    const rows = (await readFile(join(run.dataset, file), 'utf8')).trim().split('\n');
    return Promise.all(rows.map((row) => digestOfFile((JSON.parse(row) as { images: string[] }).images[0] ?? '')));
  };
  const [train, heldOut] = await Promise.all([pictures('train.jsonl'), pictures('held_out.jsonl')]);
  expect(train.length + heldOut.length).toBe(560);
  expect(heldOut.filter((digest) => train.includes(digest))).toEqual([]);
});

test("`llamafactory-cli train` on the run's config.yaml by hand gives the same losses and leaves the run alone", async () => {
  const before = await digestOfFile(join(run.trainOutput, 'adapter_model.safetensors'));
  const done = await runProgram(join(checkout, 'trainer/.venv/bin/llamafactory-cli'), ['train', run.trainConfig]);
  expect(done.exitCode).toBe(0);
  const { output_dir: byHand } = parse(await readFile(run.trainConfig, 'utf8')) as { output_dir: string };
  const log = (await readFile(join(byHand, 'trainer_log.jsonl'), 'utf8')).trim().split('\n');
  const lines = log.map((line) => JSON.parse(line) as { current_steps: number; loss?: number });
  const expected = lossCurve(await readEvents(run.events));
  const losses = lines.filter((line) => line.loss !== undefined);
  expect(losses.map((line) => line.current_steps)).toEqual(expected.map(({ step }) => step));
  losses.forEach(({ loss }, index) => expect(loss).toBeCloseTo(expected[index]?.loss ?? NaN, 3));
  expect(await digestOfFile(join(run.trainOutput, 'adapter_model.safetensors'))).toBe(before);
});

test('a second start under the same name does nothing again and ends the same', async () => {
  const trainerBefore = await readJson<TrainerProcess>(run.process);
  const servedBefore = (await listDeployments(settings.home))[0];
  const mergedBefore = await digestOfFile(run.mergeAudit);
  const again = await start('whole', await demoConfig());
  const secondResult = await withWorkers(env, createActivities(settings), () => again.result());
  expect(secondResult).toEqual(result);
  expect(await readJson(run.process)).toEqual(trainerBefore);
  expect(await digestOfFile(run.mergeAudit)).toBe(mergedBefore);
  expect((await listDeployments(settings.home))[0]).toEqual(servedBefore);
  expect(servedBefore).toBeDefined();
});

test('a run that continues from the champion begins where that had come to, with a chain of digests of its own', async () => {
  const config = await demoConfig();
  const train = { ...config.train, max_steps: 4, save_steps: 2, learning_rate: 1e-5 };
  const deploy = { ...(config.deploy as object), apiKeyEnv: 'TEMPER_TEST_API_KEY' };
  const notify = [{ format: 'dingtalk', urlEnv: 'TEMPER_TEST_HOOK', secretEnv: 'TEMPER_TEST_HOOK_SECRET' }];
  const wanted = { ...config, train, deploy, evaluate: { enabled: false }, notify };
  const on = await start('on', wanted, { continueFrom: 'champion' });
  const ended = await withWorkers(env, createActivities(settings), async () => {
    const outcome = await on.result();
    for (let tries = 0; receiver.received.length === 0 && tries < 400; tries++)
      await new Promise((resolve) => setTimeout(resolve, 50));
    return outcome;
  });
  expect(ended.outcome).toBe('deployed');
  const [told] = receiver.bodies<{ markdown: { text: string } }>();
  expect(told?.markdown.text).toContain('Run on is in service');
  expect(told?.markdown.text).toContain(runDirectory(settings.home, 'on').report);
  const losses = async ({ events }: RunDirectory) => lossCurve(await readEvents(events)).map(({ loss }) => loss ?? NaN);
  const continued = runDirectory(settings.home, 'on');
  const [before, after] = [await losses(run), await losses(continued)];
  expect(before[0]).toBeGreaterThan(0.5);
  expect(Math.max(...after)).toBeLessThan(0.1);
  const { merged } = (await readJson<Manifest>(continued.manifest)) as Manifest;
  const served = { by: 'the API', home: settings.home, runName: 'on', modelDigest: merged?.digest ?? '' };
  expect((await traceModel(served, false)).flatMap(({ problems }) => problems)).toEqual([]);
});

test('no secret of the worker is in a history or in a file of the run or its deployment', async () => {
  const on = env.client.workflow.getHandle('on');
  const history = JSON.stringify(await on.fetchHistory()).replaceAll(/"data":"([^"]+)"/g, (_match, base64: string) =>
    Buffer.from(base64, 'base64').toString(),
  );
  expect(history).toContain('TEMPER_TEST_API_KEY'); // payloads are read as text
  const folders = [runDirectory(settings.home, 'on').path, join(settings.home, 'deployments')];
  const files = folders.flatMap((folder) =>
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && statSync(join(entry.parentPath, entry.name)).size < 5_000_000)
      .map((entry) => join(entry.parentPath, entry.name)),
  );
  expect(files.length).toBeGreaterThan(30);
  for (const secret of [...Object.values(secrets), hookKey]) {
    expect(history).not.toContain(secret);
    expect(files.filter((file) => readFileSync(file, 'latin1').includes(secret))).toEqual([]);
  }
  const { apiUrl } = (await on.result()) as FineTuneResult;
  expect((await fetch(`${apiUrl}/v1/models`)).status).toBe(401);
  const headers = { authorization: `Bearer ${secrets.TEMPER_TEST_API_KEY}` };
  expect((await fetch(`${apiUrl}/v1/models`, { headers })).status).toBe(200);
});

test('full fine-tuning goes the same way, its whole model brought to fp16', async () => {
  const config = await demoConfig();
  const { lora_target: _target, lora_rank: _rank, lora_alpha: _alpha, ...train } = config.train;
  const full = { ...train, finetuning_type: 'full', max_steps: 4, save_steps: 2, learning_rate: 1e-4 };
  const whole = await start('full', {
    ...config,
    train: full,
    deploy: { enabled: false },
    evaluate: { enabled: false },
  });
  const ended = await withWorkers(env, createActivities(settings), () => whole.result());
  expect(ended).toMatchObject({ outcome: 'finished', apiUrl: null });
  const { merged } = runDirectory(settings.home, 'full');
  expect(new Set(Object.values(await tensorTypes(join(merged, 'model.safetensors'))))).toEqual(new Set(['F16']));
  expect(existsSync(join(merged, 'preprocessor_config.json'))).toBe(true);
});

test('a config with a misspelled option fails once, by name, with the right key, before anything runs', async () => {
  const wrong = await start('misspelled', { train: { ...(await demoConfig()).train, lora_rnak: 8 } });
  await withWorkers(env, createActivities(settings), async () => {
    await expect(wrong.result()).rejects.toThrow();
    const { events } = await wrong.fetchHistory();
    const failures = (events ?? []).flatMap((event) => event.activityTaskFailedEventAttributes?.failure?.message ?? []);
    expect(failures).toHaveLength(1);
    expect(failures[0]).toMatch(/lora_rnak.*did you mean lora_rank/s);
    const { stages } = await wrong.query<RunProgress>('progress');
    expect(stages.map(({ state }) => state).slice(0, 2)).toEqual(['failed', 'waiting']);
  });
});

async function demoConfig(): Promise<{ train: Record<string, unknown> } & Record<string, unknown>> {
  const config = parse(await readFile(join(checkout, 'configs/demo.yaml'), 'utf8')) as {
    train: Record<string, unknown>;
  };
  return { ...config, deploy: { name: 'demo', apiPort: 0, pagePort: 0, bakeSeconds: 2 } };
}

async function start(
  workflowId: string,
  config: Record<string, unknown>,
  options: { continueFrom?: 'champion' } = {},
): Promise<WorkflowHandle<typeof fineTune>> {
  return env.client.workflow.start<typeof fineTune>('fineTune', {
    taskQueue: TASK_QUEUE,
    workflowId,
    args: [{ config, ...options }],
  });
}

function pick(from: Record<string, number> | undefined, keys: string[]): Record<string, number | undefined> {
  return Object.fromEntries(keys.map((key) => [key, from?.[key]]));
}

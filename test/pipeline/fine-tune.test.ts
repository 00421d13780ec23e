import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import type { WorkflowHandle } from '@temporalio/client';
import type { TestWorkflowEnvironment } from '@temporalio/testing';
import { existsSync } from 'node:fs';
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
import type { EvaluatedRow } from '../../host/report.ts';
import { runDirectory, type RunDirectory } from '../../host/run-directory.ts';
import type { HostSettings } from '../../host/settings.ts';
import { readJson } from '../../host/state-file.ts';
import { runProgram } from '../../host/subprocess.ts';
import { lossCurve, readEvents } from '../../host/training-events.ts';
import type { TrainerProcess } from '../../host/trainer-process.ts';
import type { fineTune, FineTuneResult } from '../../workflows/fine-tune.ts';
import type { RunProgress } from '../../workflows/progress.ts';
import { TASK_QUEUE } from '../../workflows/queues.ts';
import { tensorTypes } from '../support/safetensors.ts';
import { startServer, withWorkers } from '../support/temporal.ts';

// The whole pipeline on the real LLaMA-Factory: one run of the demo's config, looked at from all sides.
jest.setTimeout(1_200_000);

let env: TestWorkflowEnvironment;
let settings: HostSettings;
let handle: WorkflowHandle<typeof fineTune>;
let result: FineTuneResult;
let run: RunDirectory;

beforeAll(async () => {
  const home = await mkdtemp(join(tmpdir(), 'temper-pipeline-'));
  settings = {
    home,
    configsFolder: join(checkout, 'configs'),
    modelsRoot: join(home, 'models'),
    dataRoots: [checkout, home],
    gpuSlots: 1,
  };
  env = await startServer();
  handle = await start('whole', await demoConfig());
  result = await withWorkers(env, createActivities(settings), () => handle.result());
  run = runDirectory(home, 'whole');
}, 1_200_000);

afterAll(async () => {
  for (const deployment of await listDeployments(settings.home)) await stopDeployment(deployment);
  await env.teardown();
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
  const { merged, rounding } = result.merge;
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

async function start(workflowId: string, config: Record<string, unknown>): Promise<WorkflowHandle<typeof fineTune>> {
  return env.client.workflow.start<typeof fineTune>('fineTune', {
    taskQueue: TASK_QUEUE,
    workflowId,
    args: [{ config }],
  });
}

function pick(from: Record<string, number> | undefined, keys: string[]): Record<string, number | undefined> {
  return Object.fromEntries(keys.map((key) => [key, from?.[key]]));
}

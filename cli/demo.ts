import type { WorkflowHandle } from '@temporalio/client';
import { defaultPayloadConverter } from '@temporalio/common';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkout } from '../host/checkout.ts';
import { findDeployment, stopDeployment } from '../host/deployment/deployments.ts';
import { TemperError, messageOf } from '../host/errors.ts';
import { freePort, portIsFree } from '../host/ports.ts';
import { identify, isAlive, stopTree } from '../host/process-table.ts';
import type { EvaluatedRow } from '../host/report.ts';
import { readJson } from '../host/state-file.ts';
import { runDirectory } from '../host/run-directory.ts';
import { startDetached } from '../host/subprocess.ts';
import { connectClient } from '../workers/connection.ts';
import { readSettings } from '../workers/settings.ts';
import type { fineTune, FineTuneResult } from '../workflows/fine-tune.ts';
import type { RunProgress } from '../workflows/progress.ts';
import { TASK_QUEUE } from '../workflows/queues.ts';
import { findUp, type UpRecord } from './up.ts';
import { rootCause } from './workflow-error.ts';

/** The fine-tuned model must beat the base by this share of exactly right answers for the demo to have worked. */
const MIN_GAIN = 0.2;
const DEPLOYMENT = 'demo';
const STOP_GRACE_MS = 60_000;

/** `npm run demo`: the whole pipeline on the tiny Qwen3-VL, its answers and scores, then everything stopped (or kept). */
export async function demo({ keep }: { keep?: boolean }): Promise<void> {
  const { home } = readSettings();
  const before = await findUp(home);
  const server = before ?? (await startUp(home));
  const stopAll = () => stopDemo(home, before === undefined ? server : undefined);
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => void stopAll().finally(() => process.exit(130)));
  let worked = false;
  try {
    process.env.TEMPORAL_ADDRESS = server.address;
    const client = await connectClient();
    const runName = `demo-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`;
    console.log(`Run ${runName}; in the Temporal UI: ${server.uiUrl}/namespaces/default/workflows/${runName}`);
    const handle = await client.workflow.start<typeof fineTune>('fineTune', {
      taskQueue: TASK_QUEUE,
      workflowId: runName,
      args: [{ config: 'demo' }],
      staticSummary: 'Temper demo on a tiny Qwen3-VL',
    });
    worked = await present(await follow(handle), home);
  } catch (error) {
    console.error(`The demo failed: ${messageOf(rootCause(error))}`);
  }
  if (keep && worked) await sayKept(home, server);
  else await stopAll();
  process.exit(worked ? 0 : 1);
}

/** Start `temper up` in a process of its own, on the usual ports if they are free; returns when it serves. */
async function startUp(home: string): Promise<UpRecord> {
  const ports = ['--port', String(await preferredPort(7233)), '--ui-port', String(await preferredPort(8233))];
  const logFile = join(home, 'up.log');
  const starting = identify(
    startDetached(process.execPath, [join(checkout, 'cli/temper.mjs'), 'up', ...ports], logFile),
  );
  while (starting !== undefined && isAlive(starting)) {
    const running = await findUp(home);
    if (running !== undefined) return running;
    await sleep(100);
  }
  throw new TemperError('HostError', `The embedded server and worker did not start; the log: ${logFile}`);
}

async function preferredPort(port: number): Promise<number> {
  return (await portIsFree(port)) ? port : freePort();
}

async function stopDemo(home: string, server: UpRecord | undefined): Promise<void> {
  const deployment = await findDeployment(home, DEPLOYMENT);
  if (deployment !== undefined) await stopDeployment(deployment);
  if (server !== undefined) await stopTree(server.process, STOP_GRACE_MS);
}

/** Print each stage's beginning and end and what a running one last reported, until the run has ended. */
async function follow(handle: WorkflowHandle<() => Promise<FineTuneResult>>): Promise<FineTuneResult> {
  let ended = false;
  const result = handle.result().finally(() => (ended = true));
  result.catch(() => {});
  const shown = new Map<string, string>();
  let lastNews = '';
  for (let last = false; !last;) {
    last = ended;
    const progress = await handle.query<RunProgress>('progress').catch(() => undefined);
    for (const { stage, state, started, finished, headline } of progress?.stages ?? []) {
      if (shown.get(stage) === state || state === 'waiting' || state === 'scheduled') continue;
      shown.set(stage, state);
      if (state === 'running') console.log(`  ${stage.padEnd(17)} …`);
      else
        console.log(
          `  ${stage.padEnd(17)} ${state.padEnd(8)} ${seconds(started, finished).padStart(7)}  ${headline ?? ''}`,
        );
    }
    const news = ended ? '' : await newsOf(handle);
    if (news !== lastNews && news !== '') console.log(`  ${' '.repeat(17)} ${news}`);
    lastNews = news;
    await Promise.race([sleep(1000), result.catch(() => {})]);
  }
  return result;
}

/** What the running activity's last heartbeat says, as a line. */
async function newsOf(handle: WorkflowHandle): Promise<string> {
  const { raw } = await handle.describe();
  const payload = raw.pendingActivities?.[0]?.heartbeatDetails?.payloads?.[0];
  if (payload === undefined || payload === null) return '';
  const details = defaultPayloadConverter.fromPayload<Record<string, unknown>>(payload);
  if (typeof details.step === 'number' && details.step > 0) {
    const loss = typeof details.loss === 'number' ? details.loss.toPrecision(3) : '?';
    const eta = typeof details.etaSeconds === 'number' ? `, ${details.etaSeconds} s left` : '';
    return `step ${details.step} of ${String(details.maxSteps)}, loss ${loss}${eta}`;
  }
  if (typeof details.phase === 'string') return details.phase;
  const what = [details.asking, details.message].find((text) => typeof text === 'string') ?? '';
  if (typeof details.done !== 'number') return what;
  const unit = typeof details.unit === 'string' ? details.unit : '';
  return `${what} ${details.done}/${Number(details.total)} ${unit}`.trim();
}

/** Print three held-out pictures' answers and both scores; true when the fine-tuned model is clearly better. */
async function present(result: FineTuneResult, home: string): Promise<boolean> {
  const evaluation = await readJson<{ rows: EvaluatedRow[] }>(runDirectory(home, result.runName).evaluation);
  for (const { question, images, expected, base, candidate } of evaluation?.rows.slice(0, 3) ?? []) {
    console.log(
      `\n  picture    ${images.join(', ')}\n  question   ${question.replaceAll('<image>', '')}\n  expected   ${expected}`,
    );
    console.log(`  base       ${base ?? ''}\n  fine-tuned ${candidate}`);
  }
  if (result.evaluation?.base == null) return false;
  const { base, candidate } = result.evaluation;
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
  console.log(
    `\n  Right on ${base.rows} held-out pictures: base ${percent(base.exactMatch)}, fine-tuned ${percent(candidate.exactMatch)}.`,
  );
  console.log(`  The run's directory: ${result.runDirectory}`);
  console.log(`  Its report:          ${join(result.runDirectory, 'report.html')}`);
  const better = candidate.exactMatch - base.exactMatch >= MIN_GAIN;
  if (!better) console.error(`  The fine-tuned model is not better by ${percent(MIN_GAIN)}: the demo has failed.`);
  return better;
}

async function sayKept(home: string, server: UpRecord): Promise<void> {
  const deployment = await findDeployment(home, DEPLOYMENT);
  console.log(`\n  Still up:\n  Temporal UI  ${server.uiUrl}\n  Temporal     ${server.address}`);
  console.log(`  Chat page    ${deployment?.page.url}\n  API          ${deployment?.api.url}/v1`);
  console.log(`  Stop them:   npx temper undeploy ${DEPLOYMENT} && npx temper down`);
}

function seconds(started: string | null, finished: string | null): string {
  return started === null || finished === null
    ? ''
    : `${((Date.parse(finished) - Date.parse(started)) / 1000).toFixed(1)} s`;
}

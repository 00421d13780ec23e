import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkout } from '../host/checkout.ts';
import { findDeployment, stopDeployment } from '../host/deployment/deployments.ts';
import { TemperError, messageOf } from '../host/errors.ts';
import { freePort, portIsFree } from '../host/ports.ts';
import { identify, isAlive, stopTree } from '../host/process-table.ts';
import type { EvaluatedRow } from '../host/judging/evaluation.ts';
import { readJson } from '../host/state-file.ts';
import { runDirectory } from '../host/run-directory.ts';
import { startDetached } from '../host/subprocess.ts';
import { readSettings } from '../workers/settings.ts';
import type { fineTune, FineTuneResult } from '../workflows/fine-tune.ts';
import { TASK_QUEUE } from '../workflows/queues.ts';
import { connectToServer } from './connect-to-server.ts';
import { findUp, type UpRecord } from './up.ts';
import { watchOnTerminal } from './watch/watch.ts';

/** The fine-tuned model must beat the base by this share of exactly right answers for the demo to have worked. */
const MIN_GAIN = 0.2;
const DEPLOYMENT = 'demo';
const STOP_GRACE_MS = 60_000;
const NEWS_EVERY_MS = 1_000;

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
    const client = await connectToServer();
    const runName = `demo-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`;
    console.log(`Run ${runName}; in the Temporal UI: ${server.uiUrl}/namespaces/default/workflows/${runName}`);
    await client.workflow.start<typeof fineTune>('fineTune', {
      taskQueue: TASK_QUEUE,
      workflowId: runName,
      args: [{ config: 'demo' }],
      staticSummary: 'Temper demo on a tiny Qwen3-VL',
    });
    const { result } = await watchOnTerminal(client, runName, NEWS_EVERY_MS);
    worked = result !== null && (await present(result, home));
  } catch (error) {
    console.error(`The demo failed: ${messageOf(error)}`);
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

import { execa } from 'execa';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { putIntoService, type SwapOptions, type SwapResult } from '../../host/deployment/put-into-service.ts';
import {
  recordedDeployments,
  stopDeployment,
  type Deployment,
  type Release,
} from '../../host/deployment/deployments.ts';
import { discardCandidate, listCandidates } from '../../host/deployment/candidates.ts';
import { deploymentFolder, type Place } from '../../host/deployment/model-server.ts';
import { processesWith } from '../../host/process-table.ts';

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/servers/${name}`, import.meta.url));

/** Programs of `test/fixtures/servers` that serve instead of Python; the model is a folder with a `behavior.json`. */
export const standInServers = {
  api: [process.execPath, fixture('model-server.mjs')],
  page: [process.execPath, fixture('chat-page.mjs')],
};

export interface Behavior {
  answer?: string;
  /** By question; `answer` to any other. */
  answers?: Record<string, string>;
  exitCode?: number;
  neverHealthy?: boolean;
  healthyAfterMs?: number;
  diesAfterMs?: number;
  answersWrongAfterMs?: number;
  answerMs?: number;
  /** Of every answer. */
  status?: number;
  memoryBytes?: number;
  /** A file that gets a line {text, pictures} a question. */
  requestLog?: string;
  /** A file that stands for a GPU with room for one model: whoever starts while another runs on it is out of memory. */
  gpu?: string;
}

/** A release of a run whose model behaves so; it answers "right" to everything. */
export function releaseOf(home: string, runName: string, behavior: Behavior = {}): Release {
  const modelDir = join(home, 'models', runName);
  const modelDigest = Buffer.from(runName).toString('hex').padEnd(64, '0');
  mkdirSync(modelDir, { recursive: true });
  writeFileSync(join(modelDir, 'behavior.json'), JSON.stringify({ answer: 'right', ...behavior }));
  writeFileSync(join(modelDir, 'merge.json'), JSON.stringify({ mergeDigest: modelDigest }));
  const place: Place = { home, name: 'cards', runtime: 'process', image: '', commands: standInServers };
  const golden = { messages: [{ role: 'user', content: 'What?' }], answer: 'right' };
  return { runName, modelDir, modelDigest, serving: { template: 'qwen3_vl', cpu: true }, place, golden };
}

/** Options of a swap that is quick to prove itself. */
export function swapOptions(
  release: Release,
  changes: Partial<SwapOptions> = {},
): Omit<SwapOptions, 'signal' | 'report' | 'isUnwanted'> {
  const { runName } = release;
  const address = { host: '127.0.0.1', apiPort: 0, pagePort: 0 };
  return { id: runName, workflowId: runName, address, bakeSeconds: 0.3, placement: 'beside', record: {}, ...changes };
}

/** Put a release into service in this process. */
export async function swap(release: Release, changes: Partial<SwapOptions> = {}): Promise<SwapResult> {
  const { signal } = new AbortController();
  const nobody = { signal, report: () => {}, isUnwanted: () => false };
  return putIntoService(release, { ...swapOptions(release), ...nobody, ...changes });
}

/** Put a release into service that proves itself. */
export async function deploy(release: Release, changes: Partial<SwapOptions> = {}): Promise<Deployment> {
  const result = await swap(release, changes);
  if (result.outcome !== 'deployed') throw new Error(result.why);
  return result.deployment;
}

/** Swap in a process of its own, killed (SIGKILL) as soon as `killWhen` holds; undefined when it was. */
export async function swapInProcess(
  release: Release,
  options: Partial<SwapOptions>,
  killWhen?: () => boolean | Promise<boolean>,
): Promise<Pick<SwapResult, 'outcome'> | undefined> {
  const args = [fixture('swap.mjs'), JSON.stringify(release), JSON.stringify(swapOptions(release, options))];
  const child = execa(process.execPath, args, { reject: false });
  let ended = false;
  const result = child.then((done) => ((ended = true), done));
  while (killWhen !== undefined && !ended) {
    if (await killWhen()) child.kill('SIGKILL');
    await Promise.race([result, sleep(3)]);
  }
  const { exitCode, signal, stdout, stderr } = await result;
  if (signal === 'SIGKILL') return undefined;
  if (exitCode !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as SwapResult;
}

/** The runs whose models have a server process, of all below this home. */
export function servedRuns(home: string, runNames: string[]): string[] {
  return runNames.filter((runName) => processesWith(releaseFolder(home, runName)).length > 0);
}

export function releaseFolder(home: string, runName: string): string {
  return join(home, 'models', runName);
}

/** The run that answers at a deployment's stable address. */
export async function answeringRun(apiUrl: string): Promise<string | null> {
  const response = await fetch(`${apiUrl}/v1/chat/completions`, { method: 'POST', body: '{}' });
  await response.text();
  return response.headers.get('x-run');
}

export async function stopAllServed(home: string): Promise<void> {
  for (const candidate of await listCandidates(home)) await discardCandidate(candidate);
  for (const deployment of await recordedDeployments(home)) await stopDeployment(deployment);
}

export function historyFile(home: string): string {
  return join(deploymentFolder(home, 'cards'), 'history.jsonl');
}

import { Context } from '@temporalio/activity';
import { existsSync } from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '../configs/load.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import type { ConfigChanges } from '../configs/with-changes.ts';
import { recordedDeployments } from '../host/deployment/deployments.ts';
import { formatBytes } from '../host/disk.ts';
import { errorNameOf, messageOf } from '../host/errors.ts';
import { readSlotClaims } from '../host/gpu-slots.ts';
import { listGpus, type Gpu } from '../host/gpus.ts';
import { readMeasurements } from '../host/planning/measurements.ts';
import { readModelShape } from '../host/planning/model-shape.ts';
import { makePlanForHosts } from '../host/planning/plan-for-hosts.ts';
import { rowLengths } from '../host/planning/row-lengths.ts';
import { runDirectory } from '../host/run-directory.ts';
import { loadOptions, type HostSettings } from '../host/settings.ts';
import { millisOf } from '../host/timestamp.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface ListHostsResult extends StageResult {
  hosts: string[];
}

export interface DescribeHostInput {
  /** The run that looks for a host. */
  runName?: string;
  config?: string | Record<string, unknown>;
  set?: ConfigChanges;
}

export interface HostDescription extends StageResult {
  host: string;
  home: string;
  gpus: string[];
  slots: number;
  /** Runs that hold a GPU slot, and how many wait for one. */
  training: string[];
  waiting: number;
  deployments: string[];
  /** Whether the run's directory is here. */
  holdsRun: boolean;
  /** Whether the run can be done here; `unsure` depends on rows or on a base that is not there yet. */
  fit: 'yes' | 'unsure' | 'no';
  why: string;
}

/** A worker asks for work at least once a minute. */
const SEEN_WITHIN_MS = 120_000;

/** Rows to try a plan with before any is read. */
const ROWS = 1000;
const SHORT_ROW_TOKENS = 256;

/** The hosts whose workers have asked the server for work within the last two minutes. */
export async function listHosts(_input: unknown, _context: StageContext): Promise<ListHostsResult> {
  const { client, info } = Context.current();
  const { pollers } = await client.workflowService.describeTaskQueue({
    namespace: info.activityNamespace,
    taskQueue: { name: 'temper' },
    taskQueueType: 1,
  });
  const seen = pollers.filter(({ lastAccessTime }) => Date.now() - (millisOf(lastAccessTime) ?? 0) < SEEN_WITHIN_MS);
  const hosts = [...new Set(seen.flatMap(({ identity }) => hostOf(identity ?? '')))].sort();
  return { hosts, headline: hosts.join(', ') };
}

/** What this host has, what goes on here, and whether it could do a run. */
export async function describeHost(
  { runName, config, set }: DescribeHostInput,
  { settings }: StageContext,
): Promise<HostDescription> {
  const gpus = await listGpus();
  const { held, waiting } = await readSlotClaims(settings.home);
  const { fit, why } =
    config === undefined ? { fit: 'yes' as const, why: '' } : await judge(config, set, gpus, settings);
  const names = gpus.map(({ name, totalMemoryBytes }) => `${name}, ${formatBytes(totalMemoryBytes)}`);
  return {
    ...{ host: settings.hostName, home: settings.home, gpus: names, slots: settings.gpuSlots },
    ...{ training: held.map((claim) => claim.runName), waiting: waiting.length },
    deployments: (await recordedDeployments(settings.home)).map(({ name }) => name),
    holdsRun: runName !== undefined && existsSync(runDirectory(settings.home, runName).run),
    ...{ fit, why, headline: `${settings.hostName}: ${fit}${why === '' ? '' : `, ${why}`}` },
  };
}

async function judge(
  input: string | Record<string, unknown>,
  set: ConfigChanges | undefined,
  gpus: Gpu[],
  settings: HostSettings,
): Promise<Pick<HostDescription, 'fit' | 'why'>> {
  try {
    return await judgeConfig(loadConfig(input, loadOptions(settings), set), gpus, settings);
  } catch (error) {
    if (errorNameOf(error) === undefined) throw error;
    return { fit: 'no', why: messageOf(error) };
  }
}

async function judgeConfig(
  config: ResolvedConfig,
  gpus: Gpu[],
  { home, hostName }: HostSettings,
): Promise<Pick<HostDescription, 'fit' | 'why'>> {
  const { hosts } = config.plan;
  if (hosts !== undefined && hosts[0] !== hostName) return { fit: 'no', why: `plan.hosts begins with ${hosts[0]}` };
  if (config.train.use_cpu === true) return { fit: 'yes', why: 'trains on the CPU' };
  if (gpus.length === 0) return { fit: 'no', why: 'it has no GPU' };
  const base = config.train.model_name_or_path;
  if (!existsSync(join(base, 'config.json'))) {
    if (config.model !== undefined) return { fit: 'unsure', why: 'the base is not fetched yet' };
    return { fit: 'no', why: `the base ${base} is not there` };
  }
  const cutoff = Number(config.train.cutoff_len ?? 2048);
  const facts = {
    ...{ gpus, cpus: availableParallelism(), hostMemoryBytes: totalmem(), shape: await readModelShape(base) },
    ...{ options: config.train, wishes: config.plan, measurements: await readMeasurements(home) },
    ...{ installed: { flashAttention: false, deepspeed: true, liger: true }, deepspeedConfigs: '' },
  };
  const planFor = (tokens: number) =>
    makePlanForHosts({ ...facts, rows: rowLengths(ROWS, null, tokens) }, hosts?.length ?? 1);
  planFor(Math.min(cutoff, SHORT_ROW_TOKENS));
  try {
    planFor(cutoff);
    return { fit: 'yes', why: '' };
  } catch (error) {
    if (errorNameOf(error) === undefined) throw error;
    return { fit: 'unsure', why: `rows of ${cutoff} tokens do not fit` };
  }
}

/** Workers sign themselves `<process>@<host>`. */
function hostOf(identity: string): string[] {
  const at = identity.indexOf('@');
  return at < 0 ? [] : [identity.slice(at + 1)];
}

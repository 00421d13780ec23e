import { Client, WorkflowNotFoundError } from '@temporalio/client';
import type { NativeConnection } from '@temporalio/worker';
import { discardCandidate, listCandidates } from '../host/deployment/candidates.ts';
import { lockDeployment, readDeployment, recordedDeployments } from '../host/deployment/deployments.ts';
import { settleAbandonedSwap } from '../host/deployment/put-into-service.ts';
import { runDirectory, runsIn } from '../host/run-directory.ts';
import type { HostSettings } from '../host/settings.ts';
import { findTrainer, stopTrainer, type TrainerProcess } from '../host/trainer-process.ts';

const INTERVAL_MS = 10_000;
const STOP_GRACE_MS = 10_000;

/**
 * Stop trainers and candidates whose workflow is closed. A terminated workflow can tell its activity nothing but "not found",
 * which an outage says too, so no activity stops its trainer for that; here the server is asked. Returns a function that ends
 * the watch.
 */
export function watchOrphans(settings: HostSettings, connection: NativeConnection, namespace: string): () => void {
  const client = new Client({ connection, namespace });
  let busy = false;
  const look = async () => {
    if (busy) return;
    busy = true;
    await stopOrphans(settings, client).catch(() => {}); // the server is away: look again later
    busy = false;
  };
  const timer = setInterval(() => void look(), INTERVAL_MS);
  return () => clearInterval(timer);
}

async function stopOrphans({ home }: HostSettings, client: Client): Promise<void> {
  await stopOrphanedTrainers(home, client);
  await discardOrphanedCandidates(home, client);
  await settleAbandonedSwaps(home, client);
}

/** A champion that had to make room for such a candidate serves again. */
async function discardOrphanedCandidates(home: string, client: Client): Promise<void> {
  for (const candidate of await listCandidates(home)) {
    const { runName, place } = candidate;
    if (!(await isClosed(client, runName))) continue;
    const signal = AbortSignal.timeout(INTERVAL_MS);
    await lockDeployment(place, { signal }, () => discardCandidate(candidate));
  }
}

/** Of workflows that were terminated while they watched a new champion. */
async function settleAbandonedSwaps(home: string, client: Client): Promise<void> {
  for (const { name } of await recordedDeployments(home)) {
    const signal = AbortSignal.timeout(INTERVAL_MS);
    const workflowId = (await readDeployment(home, name))?.swap?.workflowId;
    if (workflowId === undefined || !(await isClosed(client, workflowId))) continue;
    await lockDeployment({ home, name }, { signal }, async () => {
      const now = await readDeployment(home, name);
      if (now?.swap?.workflowId === workflowId) await settleAbandonedSwap(now);
    });
  }
}

async function stopOrphanedTrainers(home: string, client: Client): Promise<void> {
  for (const runName of await runsIn(home)) {
    const trainer = await trainerOf(home, runName).catch(() => undefined); // not a run's folder: the others matter
    if (trainer !== undefined && (await isClosed(client, runName))) await stopTrainer(trainer, STOP_GRACE_MS);
  }
}

async function trainerOf(home: string, runName: string): Promise<TrainerProcess | undefined> {
  return findTrainer(runDirectory(home, runName));
}

/** A paused workflow is not closed; nor is one that the server does not know: this may be another server than the one the run began on. */
async function isClosed(client: Client, workflowId: string): Promise<boolean> {
  try {
    return (await client.workflow.getHandle(workflowId).describe()).closeTime !== undefined;
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return false;
    throw error;
  }
}

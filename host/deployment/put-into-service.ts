import { bake } from './bake.ts';
import { retire, running } from './champion.ts';
import {
  discardCandidate,
  forgetCandidate,
  startCandidate,
  type Candidate,
  type CandidateOptions,
} from './candidates.ts';
import { addToHistory, readHistory, type DeploymentEvent } from './history.ts';
import {
  readDeployment,
  recordDeployment,
  stopDeployment,
  type Address,
  type Deployment,
  type Release,
  type ReleasedModel,
} from './deployments.ts';
import { digestOfValue } from '../digest.ts';
import { frontServes, pointedAt, pointFront, startFront, stopFront } from './front.ts';
import {
  deploymentFolder,
  isSameModel,
  serverRuns,
  startPageServer,
  stopModel,
  stopServer,
  type Server,
} from './model-server.ts';

export interface SwapOptions extends CandidateOptions {
  /** Names this putting into service, so that another attempt at it goes on where the one before was. */
  id: string;
  /** The workflow that swaps. */
  workflowId: string;
  address: Address;
  /** The new model is watched for so long after the swap. */
  bakeSeconds: number;
  /** For the history: where the model comes from, who asked for it and why. */
  record: Pick<DeploymentEvent, 'digests' | 'score' | 'comparison' | 'by' | 'why'>;
  /** Whether an aborted signal means that a person wants this undone, and not just that this attempt has to end. */
  isUnwanted: () => boolean;
}

export type SwapResult =
  | { outcome: 'deployed'; deployment: Deployment }
  | { outcome: 'rolledBack'; why: string; deployment: Deployment | null };

/**
 * Put a model into service without losing a request: start it as candidate, point the stable address at it, watch it, and
 * only then stop what served before; on any failure that comes back. May be called again after a crash at any point.
 */
export async function putIntoService(release: Release, options: SwapOptions): Promise<SwapResult> {
  const { home, name } = release.place;
  const before = await settled(await readDeployment(home, name), release, options);
  const failure = await failureOf(release, options);
  if (before !== undefined && isSameModel(before.champion, release)) {
    if (before.swap !== null)
      return failure === undefined ? prove(before, options) : rollBack(before, failure, options);
    if (await isWhole(before)) return { outcome: 'deployed', deployment: before };
  } else if (failure !== undefined) {
    await stopModel(release, release.place);
    return { outcome: 'rolledBack', why: failure, deployment: before ?? null };
  }
  const candidate = await startCandidate(release, release.place, options);
  const deployment = await swapIn(release, candidate, options).catch(async (error: unknown) => {
    await discardCandidate(candidate);
    throw error;
  });
  return prove(deployment, options);
}

/** Without the unproved champion of another workflow that has ended in the middle of a swap. */
async function settled(
  before: Deployment | undefined,
  release: Release,
  { report }: SwapOptions,
): Promise<Deployment | undefined> {
  if (before === undefined || before.swap === null || isSameModel(before.champion, release)) return before;
  return (await settleAbandonedSwap(before, report)) ?? undefined;
}

/** Have what served before serve again, since nobody is going to watch the champion until it has proved itself. */
export async function settleAbandonedSwap(
  deployment: Deployment,
  report: SwapOptions['report'] = () => {},
): Promise<Deployment | null> {
  const { champion, swap } = deployment;
  if (swap === null) return deployment;
  const why = `${swap.workflowId} ended before the model of run ${champion.runName} had proved itself`;
  return (await rollBack(deployment, why, { id: `${swap.workflowId} ${swap.since}`, record: {}, report })).deployment;
}

/** Why an attempt before has given this release up, if it has. */
async function failureOf({ place }: Release, { id }: SwapOptions): Promise<string | undefined> {
  const history = await readHistory(place.home, place.name);
  const event = history.find((each) => each.id === id && each.event === 'rolledBack');
  return event && (event.why ?? 'it failed');
}

/** From here on requests go to the candidate. The record comes first: it is what an attempt after a crash goes by. */
async function swapIn(release: Release, { server }: Candidate, options: SwapOptions): Promise<Deployment> {
  const { home, name } = release.place;
  const before = await readDeployment(home, name);
  const { front, pageServer } = await addressFor(release, before, server, options);
  const since = new Date().toISOString();
  const isBack = before !== undefined && isSameModel(before.champion, release); // it has proved itself before
  const swap = { previous: before?.champion ?? null, since, workflowId: options.workflowId };
  const deployment: Deployment = {
    ...{ home, name, address: options.address, api: front.api, page: front.page, front, pageServer },
    champion: { ...release, server },
    swap: isBack ? null : swap,
    deployedAt: since,
  };
  await recordDeployment(deployment);
  return deployment;
}

/** The deployment's stable address and page; new ones when there are none or the config wants other ports. */
async function addressFor(
  { place, serving }: Release,
  before: Deployment | undefined,
  server: Server,
  { address, signal, report }: SwapOptions,
): Promise<Pick<Deployment, 'front' | 'pageServer'>> {
  const isKept =
    before !== undefined &&
    digestOfValue(before.address) === digestOfValue(address) &&
    (await frontServes(before.front));
  const hasSameKey = before?.champion.serving.apiKeyEnv === serving.apiKeyEnv;
  if (isKept && hasSameKey && (await serverRuns(before.pageServer))) return before;
  report({ message: `starting the address and the chat page of ${place.name}` });
  const folder = deploymentFolder(place.home, place.name);
  const front = isKept ? before.front : await startFront({ ...place, ...address, folder, signal });
  try {
    if (!isKept) await pointFront(front, 'api', server.port);
    const pageServer = await startPageServer(front.api.url, serving.apiKeyEnv, place, signal);
    await pointFront(front, 'page', pageServer.port);
    if (before !== undefined) await stopServer(before.pageServer);
    return { front, pageServer };
  } catch (error) {
    if (before === undefined) await stopFront(front);
    throw error;
  }
}

/** Watch the new champion; what served before is stopped when it is well, and comes back when it isn't. */
async function prove(deployment: Deployment, options: SwapOptions): Promise<SwapResult> {
  const { front, champion, swap, home, name } = deployment;
  await forgetCandidate(champion, champion.place);
  if (champion.server === null) return rollBack(deployment, 'it was stopped', options);
  await pointFront(front, 'api', champion.server.port);
  const problem = await bake(deployment, options).catch((error: unknown) => {
    if (!options.isUnwanted()) throw error;
    return 'the run was cancelled';
  });
  if (problem !== undefined) {
    const rolledBack = await rollBack(deployment, problem, options);
    options.signal.throwIfAborted();
    return rolledBack;
  }
  if (swap?.previous) {
    options.report({ message: `waiting for the last answers of run ${swap.previous.runName}` });
    await retire(swap.previous, front, options.signal);
  }
  const proved = { ...deployment, swap: null };
  await addToHistory(home, name, eventOf('deployed', champion, champion.runName, options));
  await recordDeployment(proved);
  return { outcome: 'deployed', deployment: proved };
}

/** Give the stable address back to what served before; with nothing before, nothing serves. */
async function rollBack(
  deployment: Deployment,
  why: string,
  options: Pick<SwapOptions, 'id' | 'record' | 'report'>,
): Promise<SwapResult> {
  const { front, champion, swap, home, name } = deployment;
  const previous = swap?.previous ?? null;
  options.report({ message: `rolling back: ${why}` });
  const event = eventOf('rolledBack', champion, previous?.runName ?? null, options);
  await addToHistory(home, name, { ...event, why });
  if (previous === null) {
    await stopDeployment(deployment);
    return { outcome: 'rolledBack', why, deployment: null };
  }
  const runsBeside = previous.server !== null && (await serverRuns(previous.server));
  if (!runsBeside) {
    await pointFront(front, 'api', null);
    await retire(champion, front); // its memory may be what the one before needs
  }
  const server = await running(previous);
  await pointFront(front, 'api', server.port);
  if (runsBeside) await retire(champion, front);
  const settled: Deployment = { ...deployment, champion: { ...previous, server }, swap: null };
  await recordDeployment(settled); // last: as long as it names the swap, an attempt after a crash does all of this again
  return { outcome: 'rolledBack', why, deployment: settled };
}

function eventOf(
  event: 'deployed' | 'rolledBack',
  { server: _server, ...model }: ReleasedModel,
  serves: string | null,
  { id, record }: Pick<SwapOptions, 'id' | 'record'>,
): DeploymentEvent {
  return { id, time: new Date().toISOString(), event, model, serves, ...record };
}

async function isWhole({ front, pageServer, champion }: Deployment): Promise<boolean> {
  if (champion.server === null) return false;
  const runs = await Promise.all([pageServer, champion.server].map(serverRuns));
  return runs.every(Boolean) && (await frontServes(front)) && (await pointedAt(front, 'api')) === champion.server.port;
}

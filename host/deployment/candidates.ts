import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { restoreChampion, stopChampion } from './champion.ts';
import { findDeployment, readDeployment, type Deployment } from './deployments.ts';
import {
  deploymentFolder,
  isSameModel,
  modelKey,
  serverRuns,
  startModel,
  stopModel,
  type Model,
  type Place,
  type Server,
} from './model-server.ts';
import { choosePlacement, type Placement } from './placement.ts';
import { readJson, writeJson } from '../state-file.ts';

/** A model that serves on a private port until it is swapped in or discarded: `deployments/<name>/candidates/`. */
export interface Candidate extends Model {
  place: Place;
  server: Server;
  placement: Placement;
}

/** As it is recorded: without a server until it is healthy. */
export type RecordedCandidate = Omit<Candidate, 'server'> & { server: Server | null };

export interface CandidateOptions {
  placement: 'auto' | Placement['mode'];
  signal: AbortSignal;
  report: (details: Record<string, unknown>) => void;
}

/**
 * Serve a model as a run's candidate; what already serves it is taken as it is. Where memory allows it runs beside the
 * champion, else the champion is stopped first, and started again if the candidate doesn't get healthy.
 */
export async function startCandidate(
  model: Model,
  place: Place,
  { placement: wanted, signal, report }: CandidateOptions,
): Promise<Candidate> {
  const { home, name } = place;
  const running = (await findCandidate(model, place)) ?? (await championAsCandidate(model, place));
  if (running?.modelDir === model.modelDir) return running;
  if (running !== undefined) await discardCandidate(running);
  const champion = await findDeployment(home, name);
  const placement = await choosePlacement(wanted, { ...model, champion }, signal);
  report({ message: `starting the candidate ${placement.mode} the champion: ${placement.reason}`, placement });
  const starting: RecordedCandidate = { ...model, place, placement, server: null };
  // Recorded first: whoever comes after a crash in the middle of the start stops it.
  await writeJson(recordFile(model, place), starting);
  try {
    if (placement.mode === 'in-place' && champion !== undefined) await stopChampion(champion);
    const candidate = { ...starting, server: await startModel(model, place, signal) };
    await writeJson(recordFile(model, place), candidate);
    return candidate;
  } catch (error) {
    await discardCandidate(starting);
    throw error;
  }
}

async function findCandidate(model: Model, place: Place): Promise<Candidate | undefined> {
  const recorded = await readJson<RecordedCandidate>(recordFile(model, place));
  const server = recorded === undefined ? undefined : await runningServer(recorded);
  return recorded && server && { ...recorded, server };
}

/** A second server of what is champion already would be one too many. */
async function championAsCandidate(model: Model, place: Place): Promise<Candidate | undefined> {
  const champion = (await readDeployment(place.home, place.name))?.champion;
  if (champion === undefined || !isSameModel(champion, { ...model, place })) return undefined;
  const server = await runningServer(champion);
  return server && { ...champion, server, placement: { mode: 'beside', reason: 'it is the champion' } };
}

async function runningServer({ server }: { server: Server | null }): Promise<Server | undefined> {
  return server !== null && (await serverRuns(server)) ? server : undefined;
}

/** The candidates of all deployments, whether or not they still serve. */
export async function listCandidates(home: string): Promise<RecordedCandidate[]> {
  const deployments = await readdir(join(home, 'deployments')).catch(() => []);
  return (await Promise.all(deployments.map((name) => candidatesOf(home, name)))).flat();
}

async function candidatesOf(home: string, name: string): Promise<RecordedCandidate[]> {
  const folder = join(deploymentFolder(home, name), 'candidates');
  const files = (await readdir(folder).catch(() => [])).filter((file) => file.endsWith('.json'));
  const found = await Promise.all(files.map((file) => readJson<RecordedCandidate>(join(folder, file))));
  return found.filter((candidate) => candidate !== undefined);
}

/**
 * Stop a candidate and forget it, and have the champion serve if it was stopped for it; the candidate's folder stays. One that
 * was swapped in, its worker having died before it could say so, is the champion and serves on.
 */
export async function discardCandidate(candidate: RecordedCandidate): Promise<void> {
  const { home, name } = candidate.place;
  const champion = (await readDeployment(home, name))?.champion;
  if (candidate.server === null || champion?.server?.port !== candidate.server.port) {
    await stopModel(candidate, candidate.place);
    await restoreChampionOf(home, name);
  }
  await forgetCandidate(candidate, candidate.place);
}

/** It has become the champion: it serves on. */
export async function forgetCandidate(model: Model, place: Place): Promise<void> {
  await rm(recordFile(model, place), { force: true });
}

/** Start the champion again if it was stopped to make room; what runs in its place has to give it back. */
export async function restoreChampionOf(home: string, name: string): Promise<Deployment | undefined> {
  const deployment = await readDeployment(home, name);
  if (deployment?.champion.server !== null) return deployment;
  const inPlace = (await candidatesOf(home, name)).filter(({ placement }) => placement.mode === 'in-place');
  for (const candidate of inPlace) await stopModel(candidate, candidate.place);
  const restored = await restoreChampion(deployment);
  // Forgotten last: whoever comes after a crash in the middle finds by them what is still to be restored.
  for (const candidate of inPlace) await forgetCandidate(candidate, candidate.place);
  return restored;
}

function recordFile(model: Model, place: Place): string {
  return join(deploymentFolder(place.home, place.name), 'candidates', `${modelKey(model, place)}.json`);
}

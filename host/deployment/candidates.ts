import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { restoreChampion, stopChampion } from './champion.ts';
import { findDeployment, readDeployment, type Deployment } from './deployments.ts';
import { digestOfValue } from '../digest.ts';
import {
  deploymentFolder,
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

export interface CandidateOptions {
  placement: 'auto' | Placement['mode'];
  signal: AbortSignal;
  report: (details: Record<string, unknown>) => void;
}

/**
 * Serve a model as a run's candidate; the one that already does is taken as it is. Where memory allows it runs beside the
 * champion, else the champion is stopped first, and started again if the candidate doesn't get healthy.
 */
export async function startCandidate(
  model: Model,
  place: Place,
  { placement: wanted, signal, report }: CandidateOptions,
): Promise<Candidate> {
  const { home, name } = place;
  const running = await findCandidate(model, place);
  if (running !== undefined && isServedAlike(running, model, place)) return running;
  if (running !== undefined) await discardCandidate(running);
  const champion = await findDeployment(home, name);
  const placement = await choosePlacement(wanted, { ...model, cpu: model.serving.cpu, champion }, signal);
  report({ message: `starting the candidate ${placement.mode} the champion: ${placement.reason}`, placement });
  if (placement.mode === 'in-place' && champion !== undefined) await stopChampion(champion);
  try {
    const candidate = { ...model, place, placement, server: await startModel(model, place, signal) };
    await writeJson(recordFile(model, place), candidate);
    return candidate;
  } catch (error) {
    await stopModel(model, place);
    await restoreChampionOf(home, name);
    throw error;
  }
}

async function findCandidate(model: Model, place: Place): Promise<Candidate | undefined> {
  const recorded = await readJson<Candidate>(recordFile(model, place));
  return recorded !== undefined && (await serverRuns(recorded.server)) ? recorded : undefined;
}

/** The candidates of all deployments, whether or not they still serve. */
export async function listCandidates(home: string): Promise<Candidate[]> {
  const deployments = await readdir(join(home, 'deployments')).catch(() => []);
  const files = await Promise.all(
    deployments.map(async (name) => {
      const folder = join(deploymentFolder(home, name), 'candidates');
      return (await readdir(folder).catch(() => [])).map((file) => join(folder, file));
    }),
  );
  const found = await Promise.all(files.flat().map((file) => readJson<Candidate>(file)));
  return found.filter((candidate) => candidate !== undefined);
}

/**
 * Stop a candidate and forget it, and have the champion serve if it was stopped for it; the candidate's folder stays. One that
 * was swapped in, its worker having died before it could say so, is the champion and serves on.
 */
export async function discardCandidate(candidate: Candidate): Promise<void> {
  const { home, name } = candidate.place;
  const champion = (await readDeployment(home, name))?.champion;
  if (champion?.server?.port !== candidate.server.port) {
    await stopModel(candidate, candidate.place);
    await restoreChampionOf(home, name);
  }
  await forgetCandidate(candidate, candidate.place);
}

/** It has become the champion: it serves on. */
export async function forgetCandidate(model: Model, place: Place): Promise<void> {
  await rm(recordFile(model, place), { force: true });
}

/** Start the champion again if it was stopped to make room. */
export async function restoreChampionOf(home: string, name: string): Promise<Deployment | undefined> {
  const deployment = await readDeployment(home, name);
  return deployment?.champion.server === null ? restoreChampion(deployment) : deployment;
}

function isServedAlike(candidate: Candidate, model: Model, place: Place): boolean {
  const decisive = ({ modelDigest, modelDir, serving }: Model, { runtime, image }: Place) =>
    digestOfValue({ modelDigest, modelDir, serving, runtime, image });
  return decisive(candidate, candidate.place) === decisive(model, place);
}

function recordFile(model: Model, { home, name }: Place): string {
  return join(deploymentFolder(home, name), 'candidates', `${modelKey(model)}.json`);
}

import { recordDeployment, stopReleased, type Deployment, type ReleasedModel } from './deployments.ts';
import { pointFront, untilDrained, type Front } from './front.ts';
import { serverRuns, startModel, type Server } from './model-server.ts';

/** Answers in flight may take so long; then the model is stopped, which still finishes what it can. */
const DRAIN_TIMEOUT_MS = 10 * 60_000;

/** Stop the champion so that another model has its memory; requests are held at the stable address meanwhile. */
export async function stopChampion(deployment: Deployment): Promise<Deployment> {
  await pointFront(deployment.front, 'api', null);
  // Recorded first: whoever comes after a crash between the two starts it again.
  const stopped = { ...deployment, champion: { ...deployment.champion, server: null } };
  await recordDeployment(stopped);
  await retire(deployment.champion, deployment.front);
  return stopped;
}

/** Have the champion serve at the stable address, started again if it does not run. Not to be interrupted: users wait. */
export async function restoreChampion(deployment: Deployment): Promise<Deployment> {
  const server = await running(deployment.champion);
  const restored = { ...deployment, champion: { ...deployment.champion, server } };
  await pointFront(deployment.front, 'api', server.port);
  // Recorded last: as long as no server is recorded, whoever comes after a crash restores it again.
  await recordDeployment(restored);
  return restored;
}

/** The server of a model, started if there is none that runs. */
export async function running(model: ReleasedModel): Promise<Server> {
  if (model.server !== null && (await serverRuns(model.server))) return model.server;
  return startModel(model, model.place, new AbortController().signal);
}

/** Stop a model that gets no new requests any more, once those in flight are answered. */
export async function retire(
  model: ReleasedModel,
  front: Front,
  signal: AbortSignal = new AbortController().signal,
): Promise<void> {
  if (model.server !== null)
    await untilDrained(front, 'api', model.server.port, { signal, timeoutMs: DRAIN_TIMEOUT_MS });
  await stopReleased(model);
}

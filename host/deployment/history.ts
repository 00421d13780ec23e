import { appendFile, mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Release } from './deployments.ts';
import { deploymentFolder } from './model-server.ts';

/** What happened to a deployment, one line of `deployments/<name>/history.jsonl` each. */
export interface DeploymentEvent {
  /** Names the occurrence, so that an attempt that is made again writes no second line. */
  id: string;
  time: string;
  event: 'deployed' | 'rolledBack' | 'rejected' | 'removed';
  /** The model that the event is about; it can be served again by this alone. */
  model: Release;
  /** The run that serves from then on; null when none does. */
  serves: string | null;
  /** Digests from the rows to the adapter, as in the run's manifest; absent where unknown. */
  digests?: { config?: string; dataset?: string; base?: string; adapter?: string };
  /** The candidate's mean score, and the difference from the champion's with its interval. */
  score?: number | null;
  comparison?: { meanDifference: number; low: number; high: number } | null;
  /** Who asked for it or approved it, and why. */
  by?: string;
  why?: string;
}

/** All events, oldest first; a torn last line, left by a crash, is passed over. */
export async function readHistory(home: string, name: string): Promise<DeploymentEvent[]> {
  return eventsIn(await historyText(home, name));
}

async function historyText(home: string, name: string): Promise<string> {
  return readFile(historyFile(home, name), 'utf8').catch(() => '');
}

function eventsIn(text: string): DeploymentEvent[] {
  return text.split('\n').flatMap((line) => {
    try {
      return line === '' ? [] : [JSON.parse(line) as DeploymentEvent];
    } catch {
      return [];
    }
  });
}

/** Add an event, unless one of its id is there. */
export async function addToHistory(home: string, name: string, event: DeploymentEvent): Promise<void> {
  const text = await historyText(home, name);
  if (eventsIn(text).some(({ id }) => id === event.id)) return;
  await mkdir(deploymentFolder(home, name), { recursive: true });
  const torn = text !== '' && !text.endsWith('\n');
  await appendFile(historyFile(home, name), `${torn ? '\n' : ''}${JSON.stringify(event)}\n`, { flush: true });
}

/**
 * The models that have proved themselves, the newest last: each deployed one puts itself on top, one that was rolled back is
 * taken out.
 */
function provedModels(history: DeploymentEvent[]): DeploymentEvent[] {
  return history.reduce<DeploymentEvent[]>((proved, event) => {
    if (event.event !== 'deployed' && event.event !== 'rolledBack') return proved;
    const others = proved.filter(({ model }) => model.modelDigest !== event.model.modelDigest);
    return event.event === 'deployed' ? [...others, event] : others;
  }, []);
}

/** The model to go back to from the one that serves, or (`runName`) the newest proved one of that run; undefined without one. */
export function championBefore(
  history: DeploymentEvent[],
  current: { modelDigest: string },
  runName?: string,
): DeploymentEvent | undefined {
  const proved = provedModels(history).filter(({ model }) => model.modelDigest !== current.modelDigest);
  return proved.findLast(({ model }) => runName === undefined || model.runName === runName);
}

export function historyFile(home: string, name: string): string {
  return join(deploymentFolder(home, name), 'history.jsonl');
}

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { listDeployments, recordedDeployments } from '../deployment/deployments.ts';
import { historyFile, readHistory, type DeploymentEvent } from '../deployment/history.ts';
import { CachedFiles } from './cached-file.ts';

/** What metrics need to know of a deployment. */
export interface DeploymentFacts {
  name: string;
  /** How often each thing happened to it. */
  events: Record<DeploymentEvent['event'], number>;
  /** What serves, or should; undefined for a deployment that was taken out of service. */
  champion: { runName: string; isUp: boolean; deployedAt: number } | undefined;
}

/** Reads the deployments of a home again and again; what has not changed is not read twice. */
export class DeploymentReader {
  readonly #home: string;
  readonly #histories = new CachedFiles<DeploymentFacts['events']>();

  constructor(home: string) {
    this.#home = home;
  }

  async read(): Promise<DeploymentFacts[]> {
    const entries = await readdir(join(this.#home, 'deployments'), { withFileTypes: true }).catch(() => []);
    const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
    const recorded = new Map((await recordedDeployments(this.#home)).map((each) => [each.name, each]));
    const up = new Set((await listDeployments(this.#home)).map(({ name }) => name));
    return Promise.all(
      names.sort().map(async (name) => {
        const deployment = recorded.get(name);
        const champion = deployment && {
          runName: deployment.champion.runName,
          isUp: up.has(name),
          deployedAt: Date.parse(deployment.deployedAt) / 1000,
        };
        return { name, events: await this.#eventsOf(name), champion };
      }),
    );
  }

  async #eventsOf(name: string): Promise<DeploymentFacts['events']> {
    return this.#histories.get([historyFile(this.#home, name)], async () => {
      const counts = { deployed: 0, rolledBack: 0, rejected: 0, removed: 0 };
      for (const { event } of await readHistory(this.#home, name)) if (event in counts) counts[event] += 1;
      return counts;
    });
  }
}

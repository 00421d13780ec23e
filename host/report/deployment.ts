import { findDeployment } from '../deployment/deployments.ts';
import { readHistory, type DeploymentEvent } from '../deployment/history.ts';
import { readJson } from '../state-file.ts';
import { facts, markup, table, type Content } from './markup.ts';
import type { ReportSource, Section } from './section.ts';

/** What is read of `deployment.json`. */
interface DeploymentRecord {
  name: string;
  outcome: string;
  why: string | null;
  apiUrl: string | null;
  pageUrl: string | null;
}

export const deployment: Section = {
  id: 'deployment',
  title: 'Deployment',
  make: async (source) => {
    const record = await readJson<DeploymentRecord>(source.run.deployment);
    const name = record?.name ?? (await configuredName(source));
    const history = name === undefined ? [] : await readHistory(source.home, name);
    const own = history.filter(({ model }) => model.runName === source.runName);
    const stage = source.state.stages.find(({ stage }) => stage === 'deployModel');
    if (record === undefined && own.length === 0 && stage?.headline == null) return undefined;
    return {
      body: markup`${facts([
        ['Deployment', name],
        ['What became of it', stage?.headline ?? record?.why],
        ['Served when this page was made', name === undefined ? null : await servesNow(source, name)],
        ['Chat page', link(record?.pageUrl)],
        ['API', link(record?.apiUrl)],
      ])}${eventTable(own)}`,
    };
  },
};

async function configuredName({ run }: ReportSource): Promise<string | undefined> {
  return (await readJson<{ config?: { deploy?: { name?: string } } }>(run.run))?.config?.deploy?.name;
}

async function servesNow({ home, runName }: ReportSource, name: string): Promise<string> {
  const found = await findDeployment(home, name);
  if (found === undefined) return 'nothing';
  return found.champion.runName === runName ? 'this run' : `run ${found.champion.runName}`;
}

function link(url: string | null | undefined): Content {
  if (url == null || !/^https?:/.test(url)) return url;
  return markup`<a href="${url}">${url}</a>`;
}

function eventTable(events: DeploymentEvent[]): Content {
  if (events.length === 0) return null;
  const rows = events.map(({ time, event, serves, by, why }) => [
    markup`<span class="time">${time.slice(0, 19).replace('T', ' ')}</span>`,
    event === 'rolledBack' ? 'rolled back' : event,
    serves ?? 'nothing',
    by ?? '',
    why ?? '',
  ]);
  const head = ['at (UTC)', 'event', 'serves from then on', 'by', 'why'];
  return markup`<h3>History of this run's model</h3>${table(head, rows, { stacked: true })}`;
}

import { ApplicationFailure, sleep } from '@temporalio/workflow';
import type { DescribeHostInput, HostDescription } from '../activities/hosts.ts';
import { askHost, listHosts } from './stages.ts';

/** So many hosts are asked about a run: with more of them the best of these is good enough, and asking all is what costs. */
const HOSTS_ASKED = 16;

/** Until hosts are asked again that were too busy to answer. */
const FIRST_PAUSE_MS = 10_000;
const LONGEST_PAUSE_MS = 300_000;

/** The hosts that answer now, each with what it says of itself and of the run that looks for one. */
export async function describeHosts(input: DescribeHostInput = {}): Promise<HostDescription[]> {
  const { hosts } = await listHosts.executeWithOptions({ summary: 'See which hosts are there' }, [{}]);
  return ask(hosts, input);
}

async function ask(hosts: string[], input: DescribeHostInput): Promise<HostDescription[]> {
  const answers = await Promise.all(
    hosts.map((host) =>
      askHost(host)
        .executeWithOptions({ summary: `Ask ${host}` }, [input])
        .catch(() => undefined),
    ),
  );
  return answers.filter((answer) => answer !== undefined);
}

/**
 * The host that a run goes to: the one that its input names, the only one there is, the one where its directory is already, or
 * the one that it fits best. HostError when it fits none; hosts that are too busy to answer are asked again.
 */
export async function placeRun({ host, runName, config, set }: DescribeHostInput & { host?: string }): Promise<string> {
  if (host !== undefined) return host;
  const input = { ...(runName && { runName }), ...(config && { config }), ...(set && { set }) };
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    const { hosts } = await listHosts.executeWithOptions({ summary: 'See which hosts are there' }, [{}]);
    const [only] = hosts;
    if (only !== undefined && hosts.length === 1) return only;
    const answers = await askInTurn(byRun(hosts, runName ?? ''), input);
    if (answers.length > 0) return bestOf(answers).host;
    await sleep(pause);
  }
}

/** Those of the first hosts that answer; of the others, too, when none of those can do the run. */
async function askInTurn(hosts: string[], input: DescribeHostInput): Promise<HostDescription[]> {
  const first = await ask(hosts.slice(0, HOSTS_ASKED), input);
  if (hosts.length <= HOSTS_ASKED || first.some(({ holdsRun, fit }) => holdsRun || fit !== 'no')) return first;
  return first.length === 0 ? first : [...first, ...(await ask(hosts.slice(HOSTS_ASKED), input))];
}

/**
 * In an order of the run's own, the same each time: a run that is started again asks the hosts that it asked before, and runs that
 * are started together do not all take the first idle one.
 */
export function byRun(hosts: string[], runName: string): string[] {
  const rank = new Map(hosts.map((host) => [host, hashOf(`${runName} ${host}`)]));
  return [...hosts].sort((a, b) => (rank.get(a) ?? 0) - (rank.get(b) ?? 0));
}

/** FNV-1a, 32 bits (http://www.isthe.com/chongo/tech/comp/fnv/). */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (const character of text) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  return hash;
}

/** Where the run is already; else sure before unsure, then most free GPU slots, then in the order given. */
export function bestOf(hosts: HostDescription[]): HostDescription {
  const home = hosts.find(({ holdsRun }) => holdsRun);
  if (home !== undefined) return home;
  const free = ({ slots, training, waiting }: HostDescription) => slots - training.length - waiting;
  const rank = { yes: 0, unsure: 1, no: 2 };
  const [best] = hosts.filter(({ fit }) => fit !== 'no').sort((a, b) => rank[a.fit] - rank[b.fit] || free(b) - free(a));
  if (best !== undefined) return best;
  const reasons = hosts.map(({ host, why }) => `\n  ${host}: ${why}`).join('');
  throw ApplicationFailure.nonRetryable(`No host can do this run:${reasons}`, 'HostError');
}

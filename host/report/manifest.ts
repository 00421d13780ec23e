import { readJson } from '../state-file.ts';
import { facts, markup, type Content } from './markup.ts';
import type { Section } from './section.ts';

type Linked = { path?: string; digest?: string; name?: string; rows?: number; steps?: number } | null;

/** What is read of `manifest.json`; `activities/record-run.ts` writes it. */
interface Manifest {
  config?: Linked;
  dataset?: Linked;
  base?: Linked;
  adapter?: Linked;
  merged?: Linked;
  versions?: Record<string, unknown>;
  /** They have a section of their own. */
  stages?: unknown;
}

export const manifest: Section = {
  id: 'manifest',
  title: 'Manifest',
  make: async ({ run }) => {
    const recorded = await readJson<Manifest>(run.manifest);
    if (recorded === undefined) return undefined;
    const { config, dataset, base, adapter, merged, versions = {} } = recorded;
    const { stages: _stages, ...chain } = recorded;
    return {
      body: markup`${facts([
        ['Config', linked(config)],
        ['Rows', linked(dataset)],
        ['Base', linked(base)],
        ['Adapter', linked(adapter)],
        ['Merged model', linked(merged)],
        ['Versions', versionText(versions)],
        ['Run directory', markup`<code>${run.path}</code>`],
      ])}
<details><summary>manifest.json</summary><pre>${JSON.stringify(chain, null, 2)}</pre></details>`,
    };
  },
};

function linked(link: Linked | undefined): Content {
  if (link == null) return null;
  const what = [
    link.name,
    link.path,
    link.rows === undefined ? undefined : `${link.rows} rows`,
    link.steps === undefined ? undefined : `${link.steps} steps`,
  ].filter((part) => part !== undefined && part !== '');
  return markup`${what.join(', ')}<br><code>${link.digest ?? ''}</code>`;
}

function versionText(versions: Record<string, unknown>): string {
  const shown = Object.entries(versions).filter(
    (entry): entry is [string, string] => typeof entry[1] === 'string' && entry[0] !== 'packages',
  );
  return shown.map(([name, version]) => `${name} ${version}`).join(', ');
}

import { basename, dirname } from 'node:path';
import { messageOf } from '../errors.ts';
import { readGoodput } from '../goodput/run-goodput.ts';
import type { RunDirectory } from '../run-directory.ts';
import { writeWhole } from '../state-file.ts';
import { readEvents } from '../training-events.ts';
import { curves } from './curves.ts';
import { dataset } from './dataset.ts';
import { deployment } from './deployment.ts';
import { evaluation } from './evaluation.ts';
import { failure } from './failure.ts';
import { manifest } from './manifest.ts';
import { markup, type Markup } from './markup.ts';
import { merge } from './merge.ts';
import { page, type MadeSection } from './page.ts';
import { plan } from './plan.ts';
import { readRunState, type RunState } from './run-state.ts';
import type { Chart, ReportSource, Section } from './section.ts';
import { stages } from './stages.ts';
import { summary } from './summary.ts';
import { time } from './time.ts';

/** In the order of the page. */
const sections: Section[] = [
  ...[failure, stages, curves, evaluation, dataset, plan, time, merge, deployment, manifest],
];

/**
 * The report of a run as its directory is now, be it finished, failed or under way: one HTML page that opens offline. A file that
 * can't be read becomes a sentence in its section.
 */
export async function renderReport(run: RunDirectory): Promise<string> {
  const runName = basename(run.path);
  const { state, problem } = await stateOf(run);
  const source: ReportSource = {
    ...{ run, runName, home: dirname(dirname(run.path)), state, now: new Date() },
    events: once(() => readEvents(run.events)),
    goodput: once(() => readGoodput(run)),
  };
  const made: MadeSection[] = [];
  const charts: Record<string, Chart> = {};
  for (const section of sections) {
    const { id, title } = section;
    try {
      const found = await section.make(source);
      if (found === undefined) continue;
      made.push({ id, title: found.title ?? title, body: found.body });
      Object.assign(charts, found.charts);
    } catch (error) {
      made.push({ id, title, body: unreadable(error) });
    }
  }
  const top = markup`${await summary(source)}${problem}`;
  return page({ title: `${runName} · Temper`, top, sections: made, charts });
}

/** Write the page, into the run's directory unless told otherwise. */
export async function writeReport(run: RunDirectory, file = run.report): Promise<void> {
  await writeWhole(file, await renderReport(run));
}

async function stateOf(run: RunDirectory): Promise<{ state: RunState; problem?: Markup }> {
  try {
    return { state: await readRunState(run) };
  } catch (error) {
    const times = { startedAt: null, finishedAt: null };
    const state = { outcome: 'unknown', ...times, stages: [], failure: undefined, setbacks: [] };
    return { state, problem: unreadable(error) };
  }
}

function unreadable(error: unknown): Markup {
  return markup`<p class="unreadable">This part could not be read, so it is left out: ${messageOf(error)}</p>`;
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined;
  return () => (result ??= work());
}

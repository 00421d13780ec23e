import type { Client } from '@temporalio/client';
import { createLogUpdate } from 'log-update';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorNameOf, messageOf, TemperError } from '../../host/errors.ts';
import { connectToServer } from '../connect-to-server.ts';
import { drawRun } from './draw-run.ts';
import { RunNews } from './news.ts';
import { endLines, exitCodeOf, outcomeOf } from './run-end.ts';
import { readSnapshot, type RunSnapshot } from './run-snapshot.ts';

const EVERY_MS = 1_000;
const NEWS_EVERY_MS = 15_000;

/** Shows a run until it has ended. */
interface View {
  /** `outage`: why the server did not answer the last time, while it doesn't. */
  show(snapshot: RunSnapshot, outage?: string): void;
  end(snapshot: RunSnapshot): void;
}

/** `temper watch [RUN]`: the run live, the newest one by default; exit code 0, 1 or 3 by how it ended. */
export async function watch(runName: string | undefined, { json }: { json?: boolean } = {}): Promise<void> {
  const client = await connectToServer();
  try {
    const name = runName ?? (await newestRun(client));
    process.exitCode = exitCodeOf(await watchRun(client, name, json === true ? jsonLines() : viewFor(name)));
  } finally {
    await client.connection.close();
  }
}

/** Show a run on this terminal, or as lines elsewhere, until it has ended; returns how it did. */
export async function watchOnTerminal(client: Client, runName: string, newsEveryMs?: number): Promise<RunSnapshot> {
  return watchRun(client, runName, viewFor(runName, newsEveryMs));
}

async function watchRun(client: Client, runName: string, view: View): Promise<RunSnapshot> {
  let snapshot: RunSnapshot | undefined;
  for (;;) {
    try {
      snapshot = await readSnapshot(client, runName, snapshot);
      if (snapshot.closedAt !== null) break;
      view.show(snapshot);
    } catch (error) {
      // A server that starts again or a connection that drops comes back; a run that is not there does not.
      if (errorNameOf(error) !== undefined) throw error;
      if (snapshot === undefined) throw noAnswer(error);
      view.show(snapshot, outageText(error));
    }
    await sleep(EVERY_MS);
  }
  view.end(snapshot);
  return snapshot;
}

function viewFor(runName: string, newsEveryMs?: number): View {
  const isTerminal = process.stdout.isTTY && process.env.TERM !== 'dumb';
  return isTerminal ? liveView(runName) : plainLines(newsEveryMs);
}

function liveView(runName: string): View {
  const update = createLogUpdate(process.stdout, { showCursor: false });
  process.once('SIGINT', () => {
    update.done();
    console.log(`\nThe run goes on; to look again: npx temper watch ${runName}`);
    process.exit(130);
  });
  const draw = (snapshot: RunSnapshot, outage?: string) => {
    const { columns = 80, rows = 24 } = process.stdout;
    update(drawRun(snapshot, { columns, rows, now: Date.now(), outage }).join('\n'));
  };
  return {
    show: draw,
    end(snapshot) {
      draw(snapshot);
      update.done();
    },
  };
}

function plainLines(everyMs = NEWS_EVERY_MS): View {
  const news = new RunNews(everyMs);
  let isOut = false;
  const tellOutage = (outage?: string) => {
    if (outage !== undefined && !isOut) console.log(`The server does not answer, asking again: ${outage}`);
    if (outage === undefined && isOut) console.log('The server answers again.');
    isOut = outage !== undefined;
  };
  return {
    show(snapshot, outage) {
      tellOutage(outage);
      if (!isOut) for (const line of news.tell(snapshot)) console.log(line);
    },
    end(snapshot) {
      tellOutage();
      for (const line of [...news.tell(snapshot), outcomeOf(snapshot), ...endLines(snapshot)]) console.log(line);
    },
  };
}

/** A line for each change, for programs. */
function jsonLines(): View {
  let last = '';
  const show = (snapshot: RunSnapshot) => {
    const line = JSON.stringify(snapshot);
    if (line !== last) console.log(line);
    last = line;
  };
  return { show, end: show };
}

async function newestRun(client: Client): Promise<string> {
  for await (const { workflowId } of client.workflow.list({ query: "WorkflowType = 'fineTune'", pageSize: 1 }))
    return workflowId;
  throw new TemperError('ConfigError', 'There is no run yet; `npx temper start CONFIG` starts one.');
}

/** What the connection says, below what was asked. */
function outageText(error: unknown): string {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  return messageOf(cause).split('\n')[0] ?? '';
}

function noAnswer(error: unknown): TemperError {
  return new TemperError('HostError', `The Temporal server does not answer: ${outageText(error)}`, { cause: error });
}

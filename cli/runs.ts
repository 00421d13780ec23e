import type { Client, WorkflowExecutionInfo } from '@temporalio/client';
import { readJson } from '../host/state-file.ts';
import { runDirectory, runsIn } from '../host/run-directory.ts';
import { readSettings } from '../workers/settings.ts';
import { columns } from './columns.ts';
import { connectToServer } from './connect-to-server.ts';
import { durationText } from '../host/duration.ts';

/** A run as it is listed: what the server knows of it, or what its directory here says when the server has forgotten it. */
export interface ListedRun {
  runName: string;
  /** Its outcome, or Temporal's word while it has none. */
  state: string;
  stage: string | null;
  model: string | null;
  score: number | null;
  /** ISO times. */
  startedAt: string | null;
  endedAt: string | null;
  /** Whether its directory is on this host. */
  isHere: boolean;
}

/** `temper runs`: the newest runs, those that the server knows and those whose directories are here. */
export async function runs({ limit, json }: { limit: string; json?: boolean }): Promise<void> {
  const { home } = readSettings();
  const here = await runsIn(home);
  const known = await knownToServer(Number(limit), new Set(here));
  const names = new Set(known?.map(({ runName }) => runName));
  const forgotten = await Promise.all(here.filter((name) => !names.has(name)).map((name) => fromDirectory(home, name)));
  const all = [...(known ?? []), ...forgotten]
    .sort((a, b) => (b.startedAt ?? '').localeCompare(a.startedAt ?? ''))
    .slice(0, Number(limit));
  if (json === true) return console.log(JSON.stringify(all, null, 2));
  if (all.length === 0) return console.log('There is no run yet; `npx temper start CONFIG` starts one.');
  const head = ['run', 'state', 'stage', 'started', 'took', 'score', 'model'];
  for (const line of columns([head, ...all.map(row)], (column) => ['took', 'score'].includes(head[column] ?? '')))
    console.log(line);
}

/** The server's runs; null, with a word on stderr, when it does not answer. */
async function knownToServer(limit: number, here: Set<string>): Promise<ListedRun[] | null> {
  let client: Client;
  try {
    client = await connectToServer();
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error));
    return null;
  }
  try {
    const found: ListedRun[] = [];
    for await (const execution of client.workflow.list({ query: "WorkflowType = 'fineTune'", pageSize: limit })) {
      if (!found.some(({ runName }) => runName === execution.workflowId)) found.push(fromServer(execution, here));
      if (found.length >= limit) break;
    }
    return found;
  } finally {
    await client.connection.close();
  }
}

function fromServer(
  { workflowId, status, startTime, closeTime, searchAttributes }: WorkflowExecutionInfo,
  here: Set<string>,
): ListedRun {
  const valueOf = (name: string) => searchAttributes[name]?.[0];
  const outcome = valueOf('TemperOutcome');
  const isRunning = status.name === 'RUNNING';
  return {
    runName: workflowId,
    state: !isRunning && typeof outcome === 'string' ? outcome : status.name.toLowerCase().replaceAll('_', ' '),
    stage: textOrNull(valueOf('TemperStage')),
    model: textOrNull(valueOf('TemperModel')),
    score: typeof valueOf('TemperScore') === 'number' ? Number(valueOf('TemperScore')) : null,
    startedAt: startTime.toISOString(),
    endedAt: closeTime?.toISOString() ?? null,
    isHere: here.has(workflowId),
  };
}

async function fromDirectory(home: string, runName: string): Promise<ListedRun> {
  const run = runDirectory(home, runName);
  const record = await readJson<{ startedAt?: string }>(run.run).catch(() => undefined);
  const manifest = await readJson<{ outcome?: string; finishedAt?: string; base?: { path: string } | null }>(
    run.manifest,
  ).catch(() => undefined);
  const evaluation = await readJson<{ scores?: { candidate?: { score: number } } }>(run.evaluation).catch(
    () => undefined,
  );
  return {
    ...{
      runName,
      state: manifest?.outcome ?? 'unknown',
      stage: null,
      model: manifest?.base?.path.split('/').at(-1) ?? null,
    },
    ...{ score: evaluation?.scores?.candidate?.score ?? null, startedAt: record?.startedAt ?? null },
    ...{ endedAt: manifest?.finishedAt ?? null, isHere: true },
  };
}

function row({ runName, state, stage, model, score, startedAt, endedAt }: ListedRun): string[] {
  const from = startedAt === null ? NaN : Date.parse(startedAt);
  const until = endedAt === null ? (state === 'running' ? Date.now() : NaN) : Date.parse(endedAt);
  const took = (until - from) / 1000;
  return [
    ...[runName, state, state === 'running' ? (stage ?? '') : '', startedAt?.slice(0, 16).replace('T', ' ') ?? ''],
    ...[Number.isFinite(took) ? durationText(took) : '', score?.toFixed(3) ?? '', model ?? ''],
  ];
}

function textOrNull(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

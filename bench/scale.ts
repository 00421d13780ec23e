/**
 * Many runs at once on many simulated hosts, with one real Temporal server, while workers and the server are killed at random:
 * whether every run ends right, and what it costs. Workers, queues, GPU slots and run directories are real; a training is a timer
 * that writes each step down once. Prints a row for each number of runs.
 *
 *   node dist/bench/scale.js [--sizes 50,150,500] [--hosts 50] [--steps 30] [--undisturbed]
 */
import { Client, Connection } from '@temporalio/client';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startEmbeddedServer, type EmbeddedServer } from '../cli/embedded-server.ts';
import { checkout } from '../host/checkout.ts';
import { readLines } from '../host/json-lines.ts';
import { percentile } from '../host/judging/scoring.ts';
import { lastingFreePort, portIsFree } from '../host/ports.ts';
import { identify, isAlive, signal, stopTree, type ProcessIdentity } from '../host/process-table.ts';
import { runDirectory } from '../host/run-directory.ts';
import type { StageAttempt } from '../host/stage-attempts.ts';
import { startDetached } from '../host/subprocess.ts';
import { TASK_QUEUE } from '../workflows/queues.ts';
import { stepsFile, type SimulatedHosts, type SimulatedStep } from './simulated-hosts.ts';

const { values } = parseArgs({
  options: {
    sizes: { type: 'string', default: '50,150,500' },
    hosts: { type: 'string', default: '50' },
    steps: { type: 'string', default: '30' },
    undisturbed: { type: 'boolean', default: false },
  },
});
const HOSTS = Number(values.hosts);
const STEPS = Number(values.steps);
const HOSTS_A_PROCESS = 10;
const WORKER_KILL_MS = 45_000;
const SERVER_KILL_MS = 180_000;

interface Figures {
  runs: number;
  right: number;
  seconds: number;
  workerKills: number;
  serverKills: number;
  events: number[];
  attempts: number[];
  gapsMs: number[];
  requests: number;
  hostsUsed: number;
}

type Found = Pick<Figures, 'runs' | 'right' | 'events' | 'attempts' | 'gapsMs' | 'hostsUsed'>;

/** A server and worker processes, to be killed and started again. */
class Cluster {
  readonly root: string;
  readonly client: Client;
  readonly #ports: [number, number, number];
  #server: EmbeddedServer | undefined;
  readonly #processes = new Map<number, ProcessIdentity>();
  #requests = 0;
  #counted = 0;

  private constructor(root: string, ports: [number, number, number]) {
    this.root = root;
    this.#ports = ports;
    this.client = new Client({ connection: Connection.lazy({ address: `127.0.0.1:${ports[0]}` }) });
  }

  static async open(slots: number): Promise<Cluster> {
    const root = await mkdtemp(join(tmpdir(), 'temper-scale-'));
    const cluster = new Cluster(root, [await lastingFreePort(), await lastingFreePort(), await lastingFreePort()]);
    await cluster.startServer();
    const count = Math.ceil(HOSTS / HOSTS_A_PROCESS);
    for (let index = 0; index < count; index++) await cluster.startWorkers(index, slots);
    return cluster;
  }

  get processCount(): number {
    return this.#processes.size;
  }

  async startServer(): Promise<void> {
    const [port, uiPort, metricsPort] = this.#ports;
    while (!(await portIsFree(port))) await sleep(100);
    this.#server = await startEmbeddedServer(this.root, port, uiPort, ['--metrics-port', String(metricsPort)]);
    this.#counted = 0;
  }

  async killServer(): Promise<void> {
    await this.countRequests();
    if (this.#server !== undefined) await kill(this.#server.process);
    await this.startServer();
  }

  async startWorkers(index: number, slots: number): Promise<void> {
    const first = index * HOSTS_A_PROCESS;
    const hosts = Array.from({ length: Math.min(HOSTS_A_PROCESS, HOSTS - first) }, (_, at) => `gpu-${first + at}`);
    const options: SimulatedHosts = {
      ...{ address: `127.0.0.1:${this.#ports[0]}`, root: this.root, hosts, slots },
      ...{ steps: STEPS, stepMs: 1000, stageMs: 200 },
    };
    const log = join(this.root, `workers-${index}.log`);
    const before = textOf(log).length;
    const program = join(checkout, 'dist/bench/simulated-hosts.js');
    const started = identify(startDetached(process.execPath, [program, JSON.stringify(options)], log));
    if (started === undefined) throw new Error(`the workers ended at once: ${log}`);
    this.#processes.set(index, started);
    while (!textOf(log).slice(before).includes('ready')) {
      if (!isAlive(started)) throw new Error(`the workers ended: ${textOf(log).slice(before)}`);
      await sleep(200);
    }
  }

  async killWorkers(index: number, slots: number): Promise<void> {
    const running = this.#processes.get(index);
    if (running !== undefined) await kill(running);
    await this.startWorkers(index, slots);
  }

  /** Requests that the server has taken, over all its lives. */
  async countRequests(): Promise<number> {
    try {
      const text = await (await fetch(`http://127.0.0.1:${this.#ports[2]}/metrics`)).text();
      const lines = text
        .split('\n')
        .filter((line) => /^service_requests(_total)?\{.*service_name="frontend"/.test(line));
      const now = lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
      this.#requests += Math.max(0, now - this.#counted);
      this.#counted = now;
    } catch {
      // it is being killed
    }
    return this.#requests;
  }

  async close(): Promise<void> {
    for (const running of this.#processes.values()) await stopTree(running, 1000);
    if (this.#server !== undefined) await stopTree(this.#server.process, 5000);
    await rm(this.root, { recursive: true, force: true });
  }
}

async function kill(running: ProcessIdentity): Promise<void> {
  signal(running, 'SIGKILL');
  while (isAlive(running)) await sleep(20);
}

async function measure(runs: number): Promise<Figures> {
  const slots = Math.ceil((2 * runs) / HOSTS);
  const cluster = await Cluster.open(slots);
  try {
    const began = Date.now();
    const names = Array.from({ length: runs }, (_, index) => `run-${index}`);
    const progress = { ended: 0 };
    const kills = { worker: 0, server: 0 };
    const disturbing = new AbortController();
    const disturbance = values.undisturbed ? undefined : disturb(cluster, slots, kills, disturbing.signal);
    const reporting = setInterval(() => console.error(`  ${progress.ended} of ${runs} ended`), 15_000);
    const outcomes = await Promise.all(
      names.map((name) => runOne(cluster.client, name).finally(() => progress.ended++)),
    );
    clearInterval(reporting);
    disturbing.abort();
    await disturbance;
    const seconds = (Date.now() - began) / 1000;
    const requests = await cluster.countRequests();
    return {
      ...(await look(cluster, names, outcomes)),
      seconds,
      requests,
      workerKills: kills.worker,
      serverKills: kills.server,
    };
  } finally {
    await cluster.close();
  }
}

/** Its outcome; asks again while the server is away. */
async function runOne(client: Client, workflowId: string): Promise<string> {
  const wanted = { taskQueue: TASK_QUEUE, workflowId, args: [{ config: 'demo' }] };
  for (;;) {
    try {
      await client.workflow.start('fineTune', { ...wanted, workflowIdConflictPolicy: 'USE_EXISTING' });
      const result = (await client.workflow.getHandle(workflowId).result()) as { outcome: string };
      return result.outcome;
    } catch (error) {
      if ((error as Error).name === 'WorkflowFailedError') return String((error as Error).cause);
      await sleep(500);
    }
  }
}

async function disturb(
  cluster: Cluster,
  slots: number,
  kills: { worker: number; server: number },
  signal: AbortSignal,
): Promise<void> {
  let untilServer = SERVER_KILL_MS;
  for (;;) {
    await sleep(WORKER_KILL_MS, undefined, { signal }).catch(() => {});
    if (signal.aborted) return;
    untilServer -= WORKER_KILL_MS;
    if (untilServer <= 0) {
      untilServer = SERVER_KILL_MS;
      kills.server += 1;
      await cluster.killServer();
    } else {
      kills.worker += 1;
      await cluster.killWorkers(Math.floor(Math.random() * cluster.processCount), slots);
    }
  }
}

/** A run has ended right when its outcome is right and each step was made once, in order. */
async function look({ root, client }: Cluster, names: string[], outcomes: string[]): Promise<Found> {
  const hosts = (await readdir(root)).filter((name) => name.startsWith('gpu-'));
  const figures: Found = { runs: names.length, right: 0, events: [], attempts: [], gapsMs: [], hostsUsed: 0 };
  const used = new Set<string>();
  for (const [index, name] of names.entries()) {
    const { historyLength } = await client.workflow.getHandle(name).describe();
    figures.events.push(historyLength);
    const steps: SimulatedStep[] = [];
    for (const host of hosts) {
      const run = runDirectory(join(root, host), name);
      const found = await readLines<SimulatedStep>(stepsFile(run.train));
      if (found.length > 0) used.add(host);
      steps.push(...found);
      figures.gapsMs.push(...gapsOf(await readLines<StageAttempt>(run.stageAttempts)));
    }
    figures.attempts.push(steps.at(-1)?.attempt ?? 0);
    const isRight = steps.length === STEPS && steps.every(({ step }, at) => step === at + 1);
    if (isRight && outcomes[index] === 'finished') figures.right += 1;
    else console.error(`${name}: ${outcomes[index]}, ${steps.length} steps`);
  }
  return { ...figures, hostsUsed: used.size };
}

/** From the end of each stage to the begin of the next one's first attempt. */
function gapsOf(attempts: StageAttempt[]): number[] {
  return attempts.flatMap((line, index) => {
    const before = attempts[index - 1];
    if (line.type !== 'began' || line.attempt !== 1 || before?.type !== 'ended' || before.how !== 'done') return [];
    return [Date.parse(line.at) - Date.parse(before.at)];
  });
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

const at = (figures: number[], share: number) => percentile(figures, share);

console.log(
  `${HOSTS} hosts, ${STEPS} steps of 1 s, each other stage 0.2 s${values.undisturbed ? ', undisturbed' : ''}\n`,
);
console.log(
  '| runs | ended right | wall s | killed: worker process, server | events a run: median, most | attempts at training: most | requests/s | next stage after, ms: p50, p95 | hosts |',
);
console.log('|---|---|---|---|---|---|---|---|---|');
for (const size of values.sizes.split(',').map(Number)) {
  const figures = await measure(size);
  const { runs, right, seconds, workerKills, serverKills, events, attempts, gapsMs, requests, hostsUsed } = figures;
  const cells = [
    ...[runs, `${right} of ${runs}`, seconds.toFixed(0), `${workerKills}, ${serverKills}`],
    ...[`${at(events, 0.5)}, ${Math.max(...events)}`, Math.max(...attempts), (requests / seconds).toFixed(0)],
    ...[`${at(gapsMs, 0.5)}, ${at(gapsMs, 0.95)}`, hostsUsed],
  ];
  console.log(`| ${cells.join(' | ')} |`);
}
process.exit(0);

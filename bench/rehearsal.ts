import { defaultPayloadConverter } from '@temporalio/common';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { mkdtempSync, readFileSync } from 'node:fs';
import { readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startEmbeddedServer } from '../cli/embedded-server.ts';
import { checkout, temporalCli } from '../host/checkout.ts';
import { lastingFreePort, portIsFree } from '../host/ports.ts';
import { descendantsOf, identify, isAlive, signal, type ProcessIdentity } from '../host/process-table.ts';
import { runDirectory, type RunDirectory } from '../host/run-directory.ts';
import { runProgram, startDetached } from '../host/subprocess.ts';
import { readEvents, type TrainingEvent } from '../host/training-events.ts';
import { findTrainer, stopTrainer, type TrainerProcess } from '../host/trainer-process.ts';
import type { fineTune } from '../workflows/fine-tune.ts';
import { TASK_QUEUE } from '../workflows/queues.ts';
import { TrainerCount } from './trainer-count.ts';

/** A training activity that an attempt works on or will. */
export interface PendingTraining {
  activityId: string;
  attempt: number;
  /** SCHEDULED, STARTED, PAUSED …, as the server names it. */
  state: string;
  /** What the last heartbeat that reached the server said. */
  heartbeat: { pid?: number; step?: number } | undefined;
}

/** A Temporal server, a worker and a home of their own, to be killed: each a real process. */
export class Rehearsal {
  readonly home: string;
  readonly client: Client;
  readonly address: string;
  #server: ProcessIdentity | undefined;
  #worker: ProcessIdentity | undefined;
  readonly #port: number;
  readonly #uiPort: number;
  readonly #workerCommand: string[];
  readonly #workerEnv: Record<string, string>;
  readonly #counts: TrainerCount[] = [];

  private constructor(
    home: string,
    [port, uiPort]: [number, number],
    workerCommand: string[],
    workerEnv: Record<string, string>,
  ) {
    this.home = home;
    this.#port = port;
    this.#uiPort = uiPort;
    this.address = `127.0.0.1:${port}`;
    this.client = new Client({ connection: Connection.lazy({ address: this.address }) });
    this.#workerCommand = workerCommand;
    this.#workerEnv = workerEnv;
  }

  /** Start a server and a worker; the worker is `temper worker` unless another program for Node is given. */
  static async open(
    workerCommand: string[] = [join(checkout, 'cli/temper.mjs'), 'worker'],
    workerEnv: Record<string, string> = {},
  ): Promise<Rehearsal> {
    for (let tries = 1; ; tries++) {
      const home = mkdtempSync(join(tmpdir(), 'temper-rehearsal-'));
      const rehearsal = new Rehearsal(
        home,
        [await lastingFreePort(), await lastingFreePort()],
        workerCommand,
        workerEnv,
      );
      try {
        await rehearsal.startServer();
        await rehearsal.startWorker();
        return rehearsal;
      } catch (error) {
        await rehearsal.close();
        if (tries === 3) throw error; // a port that was free may be taken by a rehearsal beside this one
      }
    }
  }

  async startServer(): Promise<void> {
    // A killed server's port is free only once the kernel has taken the process apart.
    await eventually(() => portIsFree(this.#port));
    const { process } = await startEmbeddedServer(this.home, this.#port, this.#uiPort);
    this.#server = process;
  }

  /** Start the worker and wait until it says that it is ready. */
  async startWorker(): Promise<void> {
    const log = join(this.home, 'worker.log');
    const before = await sizeOf(log);
    const env = {
      TEMPER_HOME: this.home,
      TEMPORAL_ADDRESS: this.address,
      OMP_NUM_THREADS: '1',
      ...this.#workerEnv,
    };
    this.#worker = identify(startDetached(process.execPath, this.#workerCommand, log, env));
    await eventually(() => {
      if (this.#worker === undefined || !isAlive(this.#worker))
        throw new Error(`The worker ended: ${readFileSync(log, 'utf8')}`);
      return readFileSync(log).subarray(before).includes('worker: ready');
    }, 120_000);
  }

  async killServer(): Promise<void> {
    await kill(this.#server, 'SIGKILL');
  }

  /** Kill the worker; after SIGTERM it may take its time. */
  async killWorker(name: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    await kill(this.#worker, name);
  }

  /** SIGKILL to server, worker, keeper, trainer and its children, all at once, as when the host loses its power. */
  async killEverything(run: RunDirectory): Promise<void> {
    const trainer = await findTrainer(run);
    const roots = [this.#server?.pid, this.#worker?.pid, trainer?.keeper.pid].filter((pid) => pid !== undefined);
    const all = roots.flatMap((pid) => [pid, ...descendantsOf(pid)]).flatMap((pid) => identify(pid) ?? []);
    for (const each of all) signal(each, 'SIGKILL');
    await eventually(() => !all.some(isAlive));
  }

  /** Start a run; from here on its trainers are counted. */
  async start(runName: string, config: Record<string, unknown>): Promise<Run> {
    const directory = runDirectory(this.home, runName);
    let count = this.#counts.find((each) => each.runName === runName);
    if (count === undefined) this.#counts.push((count = new TrainerCount(runName, directory)));
    const handle = await this.client.workflow.start<typeof fineTune>('fineTune', {
      taskQueue: TASK_QUEUE,
      workflowId: runName,
      args: [{ config }],
    });
    return new Run(this, handle, directory, count);
  }

  /** Run the Temporal CLI against this server; throws what it said when it fails. */
  async temporal(...args: string[]): Promise<string> {
    const done = await runProgram(temporalCli, [...args, '--address', this.address]);
    if (done.exitCode !== 0) throw new Error(`temporal ${args.join(' ')}: ${done.stderr || done.startError}`);
    return done.stdout;
  }

  /** End the rehearsal; nobody may wait for anything of it any more. */
  async close(): Promise<void> {
    await this.clearAway();
    await this.client.connection.close().catch(() => {});
  }

  /** End every process of the rehearsal and remove its home. */
  async clearAway(): Promise<void> {
    for (const count of this.#counts) count.stop();
    await kill(this.#worker, 'SIGKILL');
    for (const name of await readdir(join(this.home, 'runs')).catch(() => [])) {
      const trainer = await findTrainer(runDirectory(this.home, name));
      if (trainer !== undefined) await stopTrainer(trainer, 0);
    }
    await kill(this.#server, 'SIGKILL');
    await rm(this.home, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** One run of a rehearsal, looked at from outside. */
export class Run {
  readonly handle: WorkflowHandle<typeof fineTune>;
  readonly directory: RunDirectory;
  readonly count: TrainerCount;
  readonly #rehearsal: Rehearsal;

  constructor(
    rehearsal: Rehearsal,
    handle: WorkflowHandle<typeof fineTune>,
    directory: RunDirectory,
    count: TrainerCount,
  ) {
    this.#rehearsal = rehearsal;
    this.handle = handle;
    this.directory = directory;
    this.count = count;
  }

  get name(): string {
    return this.handle.workflowId;
  }

  async events(): Promise<TrainingEvent[]> {
    return readEvents(this.directory.events);
  }

  async trainer(): Promise<TrainerProcess | undefined> {
    return findTrainer(this.directory);
  }

  /** The newest step that was told, 0 before the first. */
  async step(): Promise<number> {
    return (await this.events()).findLast((event) => event.type === 'step')?.step ?? 0;
  }

  /** The run's trainer when it has made a step past `step` itself. */
  async trainerPast(step: number): Promise<TrainerProcess | undefined> {
    const trainer = await this.trainer();
    const events = await this.events();
    const own = events.slice(events.findLastIndex((event) => event.type === 'started' && event.pid === trainer?.pid));
    return own.some((event) => event.type === 'step' && event.step > step) ? trainer : undefined;
  }

  async trainingPast(step: number, patienceMs = 120_000): Promise<TrainerProcess> {
    return eventually(() => this.trainerPast(step), patienceMs);
  }

  /** The training activity as the server knows it; undefined when there is none. */
  async pending(): Promise<PendingTraining | undefined> {
    const { raw } = await this.#newest().describe();
    const found = raw.pendingActivities?.find((each) => each.activityType?.name === 'trainModel');
    if (!found) return undefined;
    const payload = found.heartbeatDetails?.payloads?.[0];
    return {
      activityId: found.activityId ?? '',
      attempt: found.attempt ?? 0,
      state: pendingStates[found.state ?? 0] ?? String(found.state),
      heartbeat: payload ? defaultPayloadConverter.fromPayload(payload) : undefined,
    };
  }

  /** Whether an attempt from number `attempt` on has begun to follow the trainer with this pid. */
  async isFollowedBy(attempt: number, pid: number): Promise<boolean> {
    const pending = await this.pending();
    return pending?.state === 'STARTED' && pending.attempt >= attempt && pending.heartbeat?.pid === pid;
  }

  async followedBy(attempt: number, pid: number, patienceMs = 120_000): Promise<void> {
    await eventually(() => this.isFollowedBy(attempt, pid), patienceMs);
  }

  /** `temporal activity <command>` on the training activity. */
  async activity(command: string, ...args: string[]): Promise<void> {
    const pending = await eventually(() => this.pending());
    await this.#rehearsal.temporal(
      'activity',
      command,
      ...['--workflow-id', this.name, '--activity-id', pending.activityId, ...args],
    );
  }

  /** Cancel the run's newest execution. */
  async cancel(): Promise<void> {
    await this.#newest().cancel();
  }

  /** Terminate the run's newest execution. */
  async terminate(): Promise<void> {
    await this.#newest().terminate('a rehearsal');
  }

  /** Whether the newest execution of the run is closed. */
  async isOver(): Promise<boolean> {
    return (await this.#newest().describe()).closeTime !== undefined;
  }

  /** Wait for the end of the run's newest execution; throws when it did not complete. */
  async ended(): Promise<void> {
    await this.#newest().result();
  }

  /** Ask the training to stop after its current step, and wait for the run's end. */
  async finish(): Promise<void> {
    await this.#newest().executeUpdate('stopTraining', { args: [{ reason: 'enough seen' }] });
    await this.ended();
  }

  #newest(): WorkflowHandle<typeof fineTune> {
    return this.#rehearsal.client.workflow.getHandle<typeof fineTune>(this.name);
  }
}

/** temporal.api.enums.v1.PendingActivityState */
const pendingStates = ['UNSPECIFIED', 'SCHEDULED', 'STARTED', 'CANCEL_REQUESTED', 'PAUSED', 'PAUSE_REQUESTED'];

/** Wait until `look` gives something true and return it; an error of `look` ends the wait. */
export async function eventually<T>(look: () => T | Promise<T>, patienceMs = 30_000): Promise<NonNullable<T>> {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > deadline) throw new Error(`not within ${patienceMs} ms: ${look.toString()}`);
    await sleep(50);
  }
}

async function kill(process: ProcessIdentity | undefined, name: NodeJS.Signals): Promise<void> {
  if (process === undefined) return;
  signal(process, name);
  await eventually(() => !isAlive(process), 60_000);
}

async function sizeOf(file: string): Promise<number> {
  return stat(file).then(
    ({ size }) => size,
    () => 0,
  );
}

import { statfs } from 'node:fs/promises';
import { Counter, Gauge, Registry, type MetricConfiguration } from 'prom-client';
import { causes } from '../goodput/account.ts';
import { readSlotClaims } from '../gpu-slots.ts';
import type { HostSettings } from '../settings.ts';
import { DeploymentReader, type DeploymentFacts } from './deployment-facts.ts';
import { RunReader, type RunFacts, type TrainingFacts } from './run-facts.ts';

/** Temper's own metrics of a host. They are read from the files in TEMPER_HOME, so a worker's restart loses nothing. */
export class Metrics {
  readonly registry = new Registry();
  readonly #settings: Pick<HostSettings, 'home' | 'gpuSlots'>;
  readonly #runs: RunReader;
  readonly #deployments: DeploymentReader;
  readonly #set: MetricSet;
  #reading: Promise<string> | undefined;

  constructor(settings: Pick<HostSettings, 'home' | 'gpuSlots'>) {
    this.#settings = settings;
    this.#runs = new RunReader(settings.home);
    this.#deployments = new DeploymentReader(settings.home);
    this.#set = metricSet(this.registry);
  }

  /** In Prometheus' text format, as the files are now. */
  async text(): Promise<string> {
    this.#reading ??= this.#read().finally(() => (this.#reading = undefined));
    return this.#reading;
  }

  async #read(): Promise<string> {
    const { home, gpuSlots } = this.#settings;
    const [runs, deployments, claims, disk] = await Promise.all([
      this.#runs.read(),
      this.#deployments.read(),
      readSlotClaims(home),
      statfs(home).catch(() => undefined),
    ]);
    const set = this.#set;
    for (const metric of Object.values(set)) metric.reset();
    setRuns(set, runs);
    setDeployments(set, deployments);
    set.slots.set(gpuSlots);
    set.slotsHeld.set(claims.held.length);
    set.slotsWaiting.set(claims.waiting.length);
    if (disk !== undefined) {
      set.diskFree.set(disk.bavail * disk.bsize);
      set.diskSize.set(disk.blocks * disk.bsize);
    }
    return this.registry.metrics();
  }
}

type MetricSet = ReturnType<typeof metricSet>;

function metricSet(registry: Registry) {
  const gauge = <T extends string>(name: string, help: string, ...labelNames: T[]) =>
    new Gauge<T>({ name: `temper_${name}`, help, labelNames, registers: [registry] } satisfies MetricConfiguration<T>);
  const counter = <T extends string>(name: string, help: string, ...labelNames: T[]) =>
    new Counter<T>({ name: `temper_${name}`, help, labelNames, registers: [registry] });
  return {
    trainingRunning: gauge(
      'training_running',
      'Whether the trainer of a run lives: 1, or 0 between two of its attempts.',
      'run',
    ),
    step: gauge('training_step', 'Optimizer steps made by a training.', 'run'),
    maxSteps: gauge('training_max_steps', 'Optimizer steps that a training is to make.', 'run'),
    stepSeconds: gauge('training_step_seconds', 'Seconds that the last optimizer step took.', 'run'),
    loss: gauge('training_loss', 'Loss of the last optimizer step.', 'run'),
    tokens: gauge(
      'training_tokens_per_second',
      'Real tokens, padding left out, a second in the last optimizer step.',
      'run',
    ),
    memory: gauge('training_gpu_memory_bytes', 'Bytes of GPU memory that the trainer has reserved.', 'run'),
    progressed: gauge(
      'training_progress_timestamp_seconds',
      'When the last optimizer step ended, or the attempt began if there was none since; seconds since the epoch.',
      'run',
    ),
    seconds: gauge(
      'training_seconds',
      'Seconds of all trainings by cause (docs/ledger.md). No counter: steps that were productive become repeated when they have to be made again.',
      'cause',
    ),
    ended: gauge(
      'runs_ended',
      'Runs by the outcome of their last end. One that is started again counts once, one whose config was refused does not count.',
      'outcome',
    ),
    failures: counter(
      'stage_failures_total',
      'Attempts at a stage that failed, by the error of docs/errors.md.',
      'stage',
      'error',
    ),
    up: gauge('deployment_up', 'Whether a deployment serves: 1 or 0.', 'deployment'),
    champion: gauge('deployment_info', 'The run whose model a deployment serves; always 1.', 'deployment', 'run'),
    deployed: gauge(
      'deployment_timestamp_seconds',
      'When the model that serves was deployed; seconds since the epoch.',
      'deployment',
    ),
    events: counter(
      'deployment_events_total',
      'What happened to a deployment: deployed, rolledBack, rejected or removed.',
      'deployment',
      'event',
    ),
    slots: gauge('gpu_slots', 'Stages that may use a GPU of this host at once.'),
    slotsHeld: gauge('gpu_slots_held', 'GPU slots in use.'),
    slotsWaiting: gauge('gpu_slots_waiting', 'Stages that wait for a GPU slot.'),
    diskFree: gauge('home_free_bytes', 'Bytes that are free on the disk of TEMPER_HOME.'),
    diskSize: gauge('home_size_bytes', 'Size in bytes of the disk of TEMPER_HOME.'),
  };
}

function setRuns(set: MetricSet, runs: RunFacts[]): void {
  for (const cause of causes) set.seconds.set({ cause }, 0);
  for (const { runName, outcome, failures, seconds, training } of runs) {
    if (outcome !== undefined) set.ended.inc({ outcome });
    for (const failure of failures) set.failures.inc({ ...failure });
    if (seconds !== undefined) for (const cause of causes) set.seconds.inc({ cause }, seconds[cause]);
    if (training !== undefined) setTraining(set, runName, training);
  }
}

function setTraining(set: MetricSet, run: string, { isRunning, step, progressedAt }: TrainingFacts): void {
  const tokens = step?.work?.tokens;
  const values: [Gauge<'run'>, number | null | undefined][] = [
    [set.trainingRunning, isRunning ? 1 : 0],
    [set.step, step?.step],
    [set.maxSteps, step?.maxSteps],
    [set.stepSeconds, step?.secondsPerStep],
    [set.loss, step?.loss],
    [set.tokens, tokens && step?.secondsPerStep ? tokens / step.secondsPerStep : undefined],
    [set.memory, step?.memoryReservedBytes],
    [set.progressed, progressedAt],
  ];
  for (const [gauge, value] of values) if (value != null) gauge.set({ run }, value);
}

function setDeployments(set: MetricSet, deployments: DeploymentFacts[]): void {
  for (const { name: deployment, events, champion } of deployments) {
    for (const [event, count] of Object.entries(events)) set.events.inc({ deployment, event }, count);
    if (champion === undefined) continue;
    set.up.set({ deployment }, champion.isUp ? 1 : 0);
    set.champion.set({ deployment, run: champion.runName }, 1);
    set.deployed.set({ deployment }, champion.deployedAt);
  }
}

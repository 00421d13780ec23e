/**
 * What every way to stop costs a real LLaMA-Factory training: the demo's, on a real server and worker that are really
 * killed, at random moments. Prints one table; every process and folder of it is gone at the end.
 *
 *   node dist/bench/kill-matrix.js --times 10 [--rows trainer-sigkill,cancel] [--lanes 2]
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { descendantsOf, signal } from '../host/process-table.ts';
import { lossCurve } from '../host/training-events.ts';
import { lastTrainer, trainerIsAlive, type TrainerProcess } from '../host/trainer-process.ts';
import { cardsTraining } from './cards-training.ts';
import { lostSteps } from './lost-steps.ts';
import { eventually, Rehearsal, type Run } from './rehearsal.ts';

const STEPS = 100;
/** For a death that a training has to end after. */
const SHORT_STEPS = 60;
/** For deaths whose recovery takes longer than a short training. */
const LONG_STEPS = 400;
const PATIENCE_MS = 600_000;
/** Longer than the heartbeat timeout of workflows/stages.ts. */
const LONG_OUTAGE_MS = 75_000;
/** After about ten seconds a worker gives up telling an absent server of a result. */
const RESULT_LOST_MS = 12_000;

interface Scene {
  rehearsal: Rehearsal;
  run: Run;
  trainer: TrainerProcess;
  config: Record<string, unknown>;
}

interface Death {
  key: string;
  title: string;
  /** At most how often in one run. */
  perRun: number;
  /** The part of the training in which it strikes: by default from the first step to four fifths. */
  between?: [number, number];
  steps?: number;
  options?: Record<string, unknown>;
  /** True when the run ends with it, so that nothing can move again. */
  ends?: boolean;
  /** Strike and bring back what a person or a supervisor would; returns when the run is watched again. */
  strike: (scene: Scene) => Promise<void>;
}

/** What one death cost. */
interface Cost {
  stepsLost: number;
  /** Until the next step was made; undefined when none was left to make. */
  seconds: number | undefined;
  samePid: boolean;
}

/** The loss of each step. */
type LossCurve = Map<number, number | null>;

interface Outcome {
  costs: Cost[];
  trainersAtOnce: number;
  lossDifference: number;
  failures: string[];
}

const deaths: Death[] = [
  {
    key: 'worker-sigkill',
    title: 'worker SIGKILL, then a new worker',
    perRun: 1,
    steps: LONG_STEPS,
    between: [0, 0.5],
    strike: async ({ rehearsal, run, trainer }) => {
      const { attempt } = await pendingOf(run);
      await rehearsal.killWorker('SIGKILL');
      await rehearsal.startWorker();
      await watchedAgain(run, attempt + 1, trainer.pid);
    },
  },
  {
    key: 'worker-sigterm',
    title: 'worker SIGTERM, then a new worker',
    perRun: 5,
    strike: async ({ rehearsal, run, trainer }) => {
      const { attempt } = await pendingOf(run);
      await rehearsal.killWorker('SIGTERM');
      await rehearsal.startWorker();
      await watchedAgain(run, attempt + 1, trainer.pid);
    },
  },
  {
    key: 'server-short',
    title: 'server SIGKILL, back after 10 s',
    perRun: 5,
    strike: async ({ rehearsal, run, trainer }) => {
      await rehearsal.killServer();
      await sleep(10_000);
      await rehearsal.startServer();
      await watchedAgain(run, 1, trainer.pid);
    },
  },
  {
    key: 'server-long',
    title: `server SIGKILL, back after ${LONG_OUTAGE_MS / 1000} s (heartbeat timeout 60 s)`,
    perRun: 1,
    steps: LONG_STEPS,
    between: [0, 0.5],
    strike: async ({ rehearsal, run, trainer }) => {
      const { attempt } = await pendingOf(run);
      await rehearsal.killServer();
      await sleep(LONG_OUTAGE_MS);
      await rehearsal.startServer();
      await watchedAgain(run, attempt + 1, trainer.pid);
    },
  },
  {
    key: 'finished-while-down',
    title: 'server SIGKILL, the training finishes before it is back',
    perRun: 1,
    steps: SHORT_STEPS,
    between: [0.5, 0.9],
    strike: async ({ rehearsal, trainer }) => {
      await rehearsal.killServer();
      await eventually(() => !trainerIsAlive(trainer), PATIENCE_MS);
      await sleep(RESULT_LOST_MS);
      await rehearsal.startServer();
    },
  },
  {
    key: 'trainer-sigkill',
    title: 'trainer SIGKILL',
    perRun: 5,
    strike: async ({ run, trainer }) => {
      signal(trainer, 'SIGKILL');
      await trainsAgain(run, trainer);
    },
  },
  {
    key: 'child-sigkill',
    title: 'SIGKILL to one child of the trainer (a loader process)',
    perRun: 5,
    options: { dataloader_num_workers: 2 },
    strike: async ({ run, trainer }) => {
      const child = await eventually(() => anyOf(descendantsOf(trainer.pid)));
      process.kill(child, 'SIGKILL');
      const step = await run.step();
      await eventually(async () => (await isAnother(run, trainer)) || (await run.step()) > step + 40, PATIENCE_MS);
    },
  },
  {
    key: 'everything-sigkill',
    title: 'everything SIGKILLed at once, then server and worker started',
    perRun: 5,
    strike: async ({ rehearsal, run, trainer }) => {
      await rehearsal.killEverything(run.directory);
      await rehearsal.startServer();
      await rehearsal.startWorker();
      await trainsAgain(run, trainer);
    },
  },
  {
    key: 'cancel',
    title: 'workflow cancel, then the run started again',
    perRun: 5,
    strike: async (scene) => {
      await scene.run.cancel();
      await startedAgain(scene);
    },
  },
  {
    key: 'terminate',
    title: 'workflow terminate, then the run started again',
    perRun: 5,
    strike: async (scene) => {
      await scene.run.terminate();
      await startedAgain(scene);
    },
  },
  {
    key: 'reset',
    title: 'workflow reset to its first task',
    perRun: 5,
    strike: async ({ rehearsal, run, trainer }) => {
      const how = ['--type', 'FirstWorkflowTask', '--reason', 'kill matrix'];
      await rehearsal.temporal('workflow', 'reset', '--workflow-id', run.name, ...how);
      await watchedAgain(run, 1, trainer.pid);
    },
  },
  {
    key: 'pause',
    title: 'activity pause, then unpause',
    perRun: 5,
    strike: async ({ run, trainer }) => {
      await run.activity('pause');
      await eventually(() => !trainerIsAlive(trainer), PATIENCE_MS);
      await run.activity('unpause');
      await trainsAgain(run, trainer);
    },
  },
  {
    key: 'start-to-close',
    title: 'start-to-close timeout',
    perRun: 5,
    strike: async ({ run, trainer }) => {
      const { attempt } = await pendingOf(run);
      await run.activity('update-options', '--start-to-close-timeout', '10s');
      await watchedAgain(run, attempt + 1, trainer.pid);
    },
  },
  {
    key: 'stop-training',
    title: 'stopTraining update',
    perRun: 1,
    steps: SHORT_STEPS,
    ends: true,
    strike: ({ run }) => run.finish(),
  },
];

const open = new Set<Rehearsal>();
let interrupted = false;

await main();

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      times: { type: 'string', default: '10' },
      rows: { type: 'string' },
      lanes: { type: 'string', default: '2' },
    },
  });
  const chosen = deaths.filter(({ key }) => values.rows === undefined || values.rows.split(',').includes(key));
  const outcomes = new Map(chosen.map(({ key }) => [key, emptyOutcome()]));
  const tell = () => {
    console.log(table(chosen, outcomes));
    for (const [key, { failures }] of outcomes) for (const failure of failures) say(`${key} failed: ${failure}`);
  };
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.once(name, () => {
      interrupted = true;
      say(`${name}: this is what was struck until now`);
      tell();
      void clearAllAway().then(() => process.exit(1));
    });
  }
  const began = Date.now();
  try {
    await strikeAll(chosen, Number(values.times), Number(values.lanes), outcomes);
    tell();
    say(`took ${Math.round((Date.now() - began) / 60_000)} min`);
  } finally {
    await clearAllAway();
  }
}

/** Strike every death as often as asked for, in as many lanes at once, each with a server, a worker and a home of its own. */
async function strikeAll(chosen: Death[], times: number, lanes: number, outcomes: Map<string, Outcome>): Promise<void> {
  const undisturbed = new Map<number, LossCurve>();
  for (const steps of new Set(chosen.map(stepsOf))) undisturbed.set(steps, await trainUndisturbed(steps));
  const left = new Map(chosen.map(({ key }) => [key, times]));
  const nextDeath = () => (interrupted ? undefined : chosen.find(({ key }) => (left.get(key) ?? 0) > 0));
  let runs = 0;
  const lane = async () => {
    let rehearsal: Rehearsal | undefined;
    for (let death = nextDeath(); death !== undefined; death = nextDeath()) {
      const { key } = death;
      const outcome = outcomes.get(key) ?? emptyOutcome();
      const name = `${key}-${++runs}`;
      const count = Math.min(left.get(key) ?? 0, death.perRun);
      left.set(key, (left.get(key) ?? 0) - count);
      rehearsal ??= await openRehearsal();
      try {
        const curve = undisturbed.get(stepsOf(death)) ?? (new Map() as LossCurve);
        const struck = await strikeInOneRun(rehearsal, name, death, count, curve, outcome);
        left.set(key, (left.get(key) ?? 0) + count - struck); // the training was over before
      } catch (error) {
        outcome.failures.push(`${name}: ${String(error)}`);
        say(`${name} FAILED: ${String(error)}`);
        await rehearsal?.close();
        rehearsal = undefined;
      }
    }
    await rehearsal?.close();
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

async function openRehearsal(): Promise<Rehearsal> {
  const rehearsal = await Rehearsal.open();
  open.add(rehearsal);
  return rehearsal;
}

async function clearAllAway(): Promise<void> {
  await Promise.all([...open].map((rehearsal) => rehearsal.clearAway()));
}

function stepsOf({ steps }: Death): number {
  return steps ?? STEPS;
}

async function trainUndisturbed(steps: number): Promise<LossCurve> {
  const rehearsal = await openRehearsal();
  const began = Date.now();
  const run = await rehearsal.start('undisturbed', await cardsTraining({ max_steps: steps }));
  await run.ended();
  const curve = new Map(lossCurve(await run.events()).map(({ step, loss }) => [step, loss]));
  await rehearsal.close();
  if (curve.size !== steps) throw new Error(`the undisturbed training has ${curve.size} losses, not ${steps}`);
  say(`undisturbed: ${curve.size} steps, ${Math.round((Date.now() - began) / 1000)} s for the whole run`);
  return curve;
}

/** One training that is struck up to `count` times and must end as if nothing had been; returns how often it was struck. */
async function strikeInOneRun(
  rehearsal: Rehearsal,
  name: string,
  death: Death,
  count: number,
  undisturbed: LossCurve,
  outcome: Outcome,
): Promise<number> {
  const config = await cardsTraining({ max_steps: stepsOf(death), ...death.options });
  const run = await rehearsal.start(name, config);
  try {
    return await strikeRun({ rehearsal, run, config }, death, count, undisturbed, outcome);
  } finally {
    outcome.trainersAtOnce = Math.max(outcome.trainersAtOnce, run.count.most);
    run.count.stop();
  }
}

async function strikeRun(
  { rehearsal, run, config }: Omit<Scene, 'trainer'>,
  death: Death,
  count: number,
  undisturbed: LossCurve,
  outcome: Outcome,
): Promise<number> {
  const steps = stepsOf(death);
  let struck = 0;
  for (const target of randomSteps(count, steps, death.between ?? [0, 0.8])) {
    const trainer = await trainerPast(run, target, steps);
    if (trainer === undefined) break;
    await sleep(Math.random() * 300);
    const seen = (await run.events()).length;
    const struckAt = Date.now() / 1000;
    await death.strike({ rehearsal, run, trainer, config });
    const cost = await costOf(run, trainer, seen, struckAt, death.ends === true);
    outcome.costs.push(cost);
    struck++;
    say(`${run.name}: ${cost.stepsLost} steps lost, ${cost.seconds?.toFixed(1) ?? '–'} s until the next step`);
  }
  if (struck === 0) throw new Error('the training was about to end before it could be struck');
  if (death.ends !== true) await run.ended();
  const curve = lossCurve(await run.events());
  if (death.ends !== true && curve.length !== steps) throw new Error(`it has ${curve.length} steps of ${steps}`);
  const differences = curve.map(({ step, loss }) => Math.abs((loss ?? NaN) - (undisturbed.get(step) ?? NaN)));
  outcome.lossDifference = Math.max(outcome.lossDifference, ...differences);
  say(
    `${run.name}: ended, trainers at once ${run.count.most}, losses off by ${Math.max(...differences).toExponential(1)}`,
  );
  return struck;
}

/** The trainer once it has made a step of its own and more than `step`; undefined when its training is about to end. */
async function trainerPast(run: Run, step: number, steps: number): Promise<TrainerProcess | undefined> {
  const trainer = await eventually(
    async () => ((await run.step()) > 0.95 * steps ? 'about to end' : await run.trainerPast(step)),
    PATIENCE_MS,
  );
  return trainer === 'about to end' ? undefined : trainer;
}

async function costOf(run: Run, before: TrainerProcess, seen: number, struckAt: number, ends: boolean): Promise<Cost> {
  const look = async () => {
    const events = await run.events();
    const restart = events.findIndex((event, index) => index >= seen && event.type === 'started');
    const over = restart < 0 && events.slice(seen).some(({ type }) => type === 'finished');
    // Between a trainer's death and the next one's first word, the old one's last steps are no sign of going on; a trainer
    // that is asked for a finished training's result makes no steps.
    const replaced = !over && (await lastTrainer(run.directory))?.pid !== before.pid;
    const next = events.find(
      (event, index) => event.type === 'step' && (restart < 0 ? !replaced && event.time > struckAt : index > restart),
    );
    return { events, restart, next, over };
  };
  const { events, restart, next } = ends
    ? { ...(await look()), next: undefined }
    : await eventually(async () => {
        const now = await look();
        return now.next !== undefined || now.over ? now : undefined;
      }, PATIENCE_MS);
  const upTo = restart < 0 ? [] : events.slice(0, restart + 1);
  const last = events.findLast((event) => event.type === 'started');
  return {
    stepsLost: lostSteps(upTo).at(-1) ?? 0,
    seconds: next === undefined ? undefined : next.time - struckAt,
    samePid: last?.pid === before.pid,
  };
}

async function pendingOf(run: Run): Promise<{ attempt: number }> {
  return eventually(() => run.pending(), PATIENCE_MS);
}

/** Wait until an attempt watches the trainer with this pid, or the run has ended, the training having been finished by it. */
async function watchedAgain(run: Run, attempt: number, pid: number): Promise<void> {
  await eventually(async () => (await run.isOver()) || (await run.isFollowedBy(attempt, pid)), PATIENCE_MS);
}

/** Wait until another trainer than the one before makes steps. */
async function trainsAgain(run: Run, before: TrainerProcess): Promise<void> {
  await eventually(() => isAnother(run, before), PATIENCE_MS);
}

async function isAnother(run: Run, before: TrainerProcess): Promise<boolean> {
  const now = await run.trainer();
  return now !== undefined && (now.pid !== before.pid || now.startTime !== before.startTime);
}

/** Wait until the trainer is gone and the workflow closed, then start the run again under its name. */
async function startedAgain({ rehearsal, run, trainer, config }: Scene): Promise<void> {
  await eventually(() => !trainerIsAlive(trainer), PATIENCE_MS);
  await eventually(() => run.isOver(), PATIENCE_MS);
  await rehearsal.start(run.name, config);
  await trainsAgain(run, trainer);
}

/** Random steps, one in each of `count` equal parts of the training between two fractions, in order. */
function randomSteps(count: number, steps: number, [from, to]: [number, number]): number[] {
  const width = ((to - from) * steps) / count;
  return Array.from({ length: count }, (_, part) => Math.floor(from * steps + (part + Math.random()) * width));
}

function anyOf<T>(values: T[]): T | undefined {
  return values[Math.floor(Math.random() * values.length)];
}

function emptyOutcome(): Outcome {
  return { costs: [], trainersAtOnce: 0, lossDifference: 0, failures: [] };
}

function table(chosen: Death[], outcomes: Map<string, Outcome>): string {
  const head = [
    'death | times | steps lost, median / max | seconds until the next step, median / max | trainer kept | trainers at once | max. loss − undisturbed | failed',
    '--- | --- | --- | --- | --- | --- | --- | ---',
  ];
  const rows = chosen.map(({ key, title }) => {
    const { costs, trainersAtOnce, lossDifference, failures } = outcomes.get(key) ?? emptyOutcome();
    const seconds = costs.flatMap((cost) => cost.seconds ?? []);
    const kept = costs.filter(({ samePid }) => samePid).length;
    return [
      title,
      costs.length,
      spread(
        costs.map(({ stepsLost }) => stepsLost),
        0,
      ),
      spread(seconds, 1),
      `${kept} of ${costs.length}`,
      trainersAtOnce,
      lossDifference === 0 ? '0' : lossDifference.toExponential(1),
      failures.length,
    ].join(' | ');
  });
  return [...head, ...rows].map((row) => `| ${row} |`).join('\n');
}

function spread(values: number[], digits: number): string {
  if (values.length === 0) return '–';
  const sorted = [...values].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? NaN;
  return `${median.toFixed(digits)} / ${Math.max(...sorted).toFixed(digits)}`;
}

function say(line: string): void {
  console.error(`${new Date().toISOString().slice(11, 19)} ${line}`);
}

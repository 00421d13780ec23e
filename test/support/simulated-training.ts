import { causes, type Cause } from '../../host/goodput/account.ts';
import type { TrainerLine, TrainingHistory } from '../../host/goodput/history.ts';
import type { StageAttempt } from '../../host/stage-attempts.ts';
import type { TrainingEvent, TrainingPhase } from '../../host/training-events.ts';

/** How a simulated trainer's life goes wrong. */
const mishaps = ['killed', 'powerLost', 'hung', 'paused', 'terminated'] as const;

/** A training that happened on paper, with where its seconds really went. */
export interface Simulated {
  history: TrainingHistory;
  truth: Record<Cause, number>;
  /** What was struck, for the test's message. */
  story: string[];
}

interface Step {
  step: number;
  counts: boolean;
  excess: number;
}

const PACE = 2_000;
const CHECKPOINT_EVERY = 4;
const EVALUATE_EVERY = 6;
const STEPS = 20;

/** Simulate one, as `seed` decides: kills at any moment, hangs, pauses, new workers, resets, second starts of the run. */
export function simulateTraining(seed: number): Simulated {
  return new Simulation(seed).run();
}

class Simulation {
  readonly #chance: () => number;
  readonly #truth = Object.fromEntries(causes.map((cause) => [cause, 0])) as Record<Cause, number>;
  readonly #attempts: StageAttempt[] = [];
  readonly #trainers: TrainerLine[] = [];
  readonly #events: TrainingEvent[] = [];
  readonly #story: string[] = [];
  readonly #steps: Step[] = [];
  /** Milliseconds since the epoch. */
  #now = 1_800_000_000_000;
  #scheduledAt = 0;
  #execution = 0;
  #attempt = 0;
  #pid = 100;
  #checkpoint = 0;
  /** The moment at which the trainer at hand is struck, and how. */
  #strike: { at: number; how: (typeof mishaps)[number] } | undefined;

  constructor(seed: number) {
    this.#chance = generator(seed);
  }

  run(): Simulated {
    this.#schedule();
    if (this.#chance() < 0.1) this.#beginTwice();
    else this.#begin();
    for (let lives = this.#upTo(4); lives >= 0; lives--) {
      const isLast = lives === 0;
      this.#strike = isLast
        ? undefined
        : { at: this.#now + this.#upTo(70_000), how: mishaps[this.#upTo(mishaps.length) - 1]! };
      try {
        this.#live(isLast && this.#chance() < 0.3);
        break;
      } catch (error) {
        if (error !== STRUCK) throw error;
        for (const each of this.#steps) if (each.step > this.#checkpoint) each.counts = false;
        if (this.#strike!.how === 'killed' && this.#chance() < 0.2) {
          this.#giveUp();
          break;
        }
        this.#comeBack(this.#strike!.how);
      }
    }
    this.#settleSteps();
    const now = this.#isAlive ? this.#now / 1000 : undefined;
    const seconds = Object.fromEntries(causes.map((cause) => [cause, this.#truth[cause] / 1000]));
    const history = { attempts: this.#attempts, trainers: this.#trainers, events: this.#events, now };
    return { history, truth: seconds as Record<Cause, number>, story: this.#story };
  }

  #isAlive = false;

  #schedule(): void {
    this.#execution++;
    this.#attempt = 0;
    this.#scheduledAt = this.#now;
    this.#spend('queue', this.#upTo(50_000));
  }

  #begin(): void {
    this.#attempt++;
    const scheduledAt = iso(this.#scheduledAt);
    const worker = { pid: 1, startTime: 1, bootId: '', host: '' };
    this.#attempts.push({ type: 'began', ...this.#who(), scheduledAt, worker, taskToken: '', at: iso(this.#now) });
  }

  /** The worker dies with an attempt before that has started a trainer. */
  #beginTwice(): void {
    this.#begin();
    this.#spend('idle', this.#upTo(60_000));
    this.#begin();
  }

  #endAttempt(how: 'done' | 'failed' | 'cancelled'): void {
    this.#attempts.push({ type: 'ended', ...this.#who(), how, at: iso(this.#now) });
  }

  /** One trainer's life from its attempt on; throws STRUCK when it is struck. */
  #live(staysAlive: boolean): void {
    this.#spend('startUp', 500);
    this.#trainers.push({ type: 'started', pid: ++this.#pid, attempt: this.#attempt, at: iso(this.#now) });
    this.#pass('startUp', 300, 'other');
    this.#tell({ type: 'started', ...this.#start(), resumedFrom: null, resumedAtStep: this.#checkpoint });
    for (const phase of ['importing', 'parsing', 'preprocessing', 'loading'] as const) {
      this.#phase(phase);
      this.#pass(phase === 'preprocessing' ? 'preprocessing' : 'startUp', this.#upTo(9_000), 'other');
    }
    this.#phase('training');
    const first = this.#checkpoint + 1;
    for (let step = first; step <= STEPS; step++) {
      this.#maybeNewWorker();
      const excess = step === first ? this.#upTo(3_000) : 0;
      if (staysAlive && step === STEPS - 3) return this.#stayAlive();
      this.#pass('repeated', PACE + excess, 'step', true);
      this.#steps.push({ step, counts: true, excess });
      this.#tell({ type: 'step', step, loss: 1, maxSteps: STEPS, secondsPerStep: PACE / 1000 });
      if (step % EVALUATE_EVERY === 0) this.#during('evaluating', 'evaluation', 1_500);
      if (step % CHECKPOINT_EVERY === 0) this.#save(step);
    }
    this.#phase('finishing');
    this.#spend('saving', 700);
    this.#tell({ type: 'finished', atStep: STEPS, maxSteps: STEPS, stopped: false, adapter: '' });
    this.#spend('saving', 40);
    this.#endTrainer('exit code 0');
    this.#spend('saving', 250);
    this.#endAttempt('done');
  }

  #stayAlive(): void {
    this.#isAlive = true;
    this.#spend('productive', 900);
  }

  #save(step: number): void {
    this.#phase('saving');
    this.#pass('saving', 800, 'other');
    this.#checkpoint = step;
    this.#tell({ type: 'checkpoint', checkpoint: `checkpoint-${step}`, atStep: step, sizeBytes: 1 });
    this.#phase('training');
  }

  #during(phase: TrainingPhase, cause: Cause, ms: number): void {
    this.#phase(phase);
    this.#pass(cause, ms, 'other');
    this.#phase('training');
  }

  /** A worker is restarted, or the workflow reset, while the trainer goes on: nothing of the trainer's time changes. */
  #maybeNewWorker(): void {
    const dice = this.#chance();
    if (dice < 0.03) this.#begin();
    if (dice > 0.98) {
      this.#execution++;
      this.#attempt = 0;
      this.#scheduledAt = this.#now;
      this.#begin();
    }
  }

  /** Let a trainer work, unless it is struck meanwhile. A whole step is settled at the end. */
  #pass(cause: Cause, ms: number, what: 'step' | 'other', isStep = false): void {
    const struckAt = this.#strike?.at ?? Infinity;
    if (this.#now + ms <= struckAt) {
      this.#now += ms;
      if (!isStep) this.#truth[cause] += ms;
      return;
    }
    const done = Math.max(0, struckAt - this.#now);
    this.#now += done;
    this.#die(this.#strike!.how, cause, done, what);
    throw STRUCK;
  }

  /** `done`: what the trainer has been at since its last sign. */
  #die(how: (typeof mishaps)[number], cause: Cause, done: number, what: 'step' | 'other'): void {
    this.#story.push(`${how} in ${cause} after step ${this.#steps.at(-1)?.step ?? 0}`);
    if (how === 'hung') {
      const silence = this.#upTo(90_000);
      this.#now += silence;
      this.#truth.hang += done + silence;
      const silentSeconds = Math.round((done + silence) / 1000);
      this.#trainers.push({ type: 'hung', pid: this.#pid, silentSeconds, at: iso(this.#now) });
      return this.#endTrainer('signal SIGKILL');
    }
    if (how === 'powerLost') {
      this.#truth.idle += done; // of a step one step's time at most was lost, see #settleSteps
      this.#lost = what === 'step' ? done : undefined;
      return;
    }
    this.#truth[cause] += done;
    if (how !== 'killed') this.#tell({ type: 'interrupted', atStep: 0, signal: 'SIGTERM' });
    this.#endTrainer('signal SIGKILL');
  }

  /** How long a step was at work when the power went. */
  #lost: number | undefined;
  /** What of those counts as work. */
  readonly #cutOff: number[] = [];

  #comeBack(how: (typeof mishaps)[number]): void {
    const away = this.#upTo(40_000);
    if (how === 'powerLost') {
      this.#spend('idle', away);
      if (this.#lost !== undefined) this.#cutOff.push(Math.min(PACE, this.#lost + away));
    } else if (how === 'terminated') {
      this.#now += away;
      this.#schedule();
    } else {
      this.#spend('idle', 100);
      this.#endAttempt(how === 'paused' ? 'cancelled' : 'failed');
      this.#spend('idle', away);
    }
    this.#begin();
  }

  #giveUp(): void {
    this.#story.push('given up');
    this.#spend('idle', 100);
    this.#endAttempt('failed');
  }

  /** The excess of first steps is known once there is any other step, and the time of a step once there is any. */
  #settleSteps(): void {
    for (const taken of this.#steps.length > 0 ? this.#cutOff : []) {
      this.#truth.repeated += taken;
      this.#truth.idle -= taken;
    }
    const firsts = this.#steps.filter(({ excess }) => excess > 0).length;
    const isKnown = this.#steps.length > firsts;
    for (const { counts, excess } of this.#steps) {
      this.#truth[isKnown ? 'startUp' : counts ? 'productive' : 'repeated'] += excess;
      this.#truth[counts ? 'productive' : 'repeated'] += PACE;
    }
  }

  #spend(cause: Cause, ms: number): void {
    this.#now += ms;
    this.#truth[cause] += ms;
  }

  #phase(phase: TrainingPhase): void {
    this.#tell({ type: 'phase', phase });
  }

  #tell(event: TrainingEvent extends infer E ? (E extends TrainingEvent ? Omit<E, 'time'> : never) : never): void {
    this.#events.push({ ...event, time: this.#now / 1000 });
  }

  #start(): { attempt: number; pid: number } {
    return { attempt: this.#attempt, pid: this.#pid };
  }

  #endTrainer(how: string): void {
    this.#trainers.push({ type: 'ended', pid: this.#pid, how, at: iso(this.#now) });
  }

  #who(): { stage: string; executionId: string; attempt: number } {
    return { stage: 'trainModel', executionId: `execution ${this.#execution}`, attempt: this.#attempt };
  }

  /** A whole number from 1 to `most`. */
  #upTo(most: number): number {
    return 1 + Math.floor(this.#chance() * most);
  }
}

const STRUCK = new Error('struck');

function iso(milliseconds: number): string {
  return new Date(milliseconds).toISOString();
}

/** Numbers in [0, 1) that a seed decides (mulberry32). */
function generator(seed: number): () => number {
  let state = seed * 0x9e3779b9;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { whileLocked } from './lock.ts';
import { identify, isAlive, type ProcessIdentity } from './process-table.ts';
import { runDirectory } from './run-directory.ts';
import { readJson, writeJson } from './state-file.ts';
import { findTrainer } from './trainer-process.ts';

/** A stage's claim to a GPU slot of this host. */
export interface SlotClaim {
  runName: string;
  stage: string;
  /** The smaller goes first. */
  priority: number;
  /** Names the activity attempt. */
  owner: string;
  /** ISO time. */
  since: string;
  /** The worker whose attempt it is; null when that has ended and left its trainer running. */
  worker: ProcessIdentity | null;
  /** ISO time when a worker was first found dead that held a slot; its stage is about to be tried again. */
  lostAt?: string;
}

/** `gpu-slots.json` in TEMPER_HOME. A claim outlives its worker by as long as its trainer lives, or until its next attempt is due. */
export interface SlotClaims {
  held: SlotClaim[];
  waiting: SlotClaim[];
}

export interface SlotOptions {
  home: string;
  slots: number;
  signal: AbortSignal;
  report: (details: Record<string, unknown>) => void;
}

const POLL_MS = 500;

/** Longer than a heartbeat timeout and the first wait before a retry. */
const RETRIED_WITHIN_MS = 120_000;

/**
 * Do `work` while this stage holds one of the host's GPU slots; waits for one by priority, then in order of asking. A slot whose
 * trainer runs on after its attempt stays its run's, so that nobody trains beside it, and its next attempt has it at once.
 */
export async function whileHoldingSlot<T>(
  claim: Pick<SlotClaim, 'runName' | 'stage' | 'priority' | 'owner'>,
  options: SlotOptions,
  work: () => Promise<T>,
): Promise<T> {
  const own: SlotClaim = { ...claim, since: new Date().toISOString(), worker: identify(process.pid) ?? null };
  try {
    await untilHeld(own, options);
    return await work();
  } finally {
    await giveBack(own, options.home);
  }
}

/** Who holds and who waits for the host's GPU slots now. */
export async function readSlotClaims(home: string): Promise<SlotClaims> {
  const { held = [], waiting = [] } = (await readJson<SlotClaims>(join(home, 'gpu-slots.json'))) ?? {};
  const now = Date.now();
  const heldNow = await Promise.all(held.map((claim) => standing(home, claim, now)));
  return { held: heldNow.flat(), waiting: waiting.filter(({ worker }) => worker !== null && isAlive(worker)) };
}

/** Start the time that slots of dead workers are kept for; a host's worker does so when it starts. */
export async function markLostClaims(home: string): Promise<void> {
  await changeClaims(home, (claims) => claims);
}

async function untilHeld(own: SlotClaim, { home, slots, signal, report }: SlotOptions): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    const holders = await changeClaims(home, ({ held, waiting }) => {
      const others = held.filter(({ runName }) => runName !== own.runName);
      const isRuns = others.length < held.length;
      const queue = [...waiting.filter(({ owner }) => owner !== own.owner), own].sort(byTurn);
      const isTurn = others.length + queue.indexOf(own) < slots;
      if (isRuns || isTurn) return { held: [...others, own], waiting: queue.filter((each) => each !== own) };
      return { held, waiting: queue };
    });
    if (holders.some(({ owner }) => owner === own.owner)) return;
    report({ waitingFor: 'a GPU slot', heldBy: holders.map(({ runName, stage }) => `${stage} of run ${runName}`) });
    await sleep(POLL_MS, undefined, { signal }).catch(() => {}); // the loop throws the signal's own reason
  }
}

async function giveBack(own: SlotClaim, home: string): Promise<void> {
  const trains = (await findTrainer(runDirectory(home, own.runName))) !== undefined;
  await changeClaims(home, ({ held, waiting }) => ({
    held: held.flatMap((claim) => {
      if (claim.owner !== own.owner) return [claim];
      return trains ? [{ ...claim, worker: null }] : [];
    }),
    waiting: waiting.filter(({ owner }) => owner !== own.owner),
  }));
}

/** Returns who holds slots after the change. */
async function changeClaims(home: string, change: (claims: SlotClaims) => SlotClaims): Promise<SlotClaim[]> {
  const { signal } = new AbortController(); // it takes milliseconds
  return whileLocked(`gpu slots ${home}`, { signal }, async () => {
    const changed = change(await readSlotClaims(home));
    await writeJson(join(home, 'gpu-slots.json'), changed);
    return changed.held;
  });
}

/** The claim as long as its worker or trainer lives, and until its run has had time to take it over; else none. */
async function standing(home: string, claim: SlotClaim, now: number): Promise<SlotClaim[]> {
  const { worker, runName, lostAt } = claim;
  if (worker !== null && isAlive(worker)) return [claim];
  if ((await findTrainer(runDirectory(home, runName))) !== undefined) return [claim];
  if (worker === null) return [];
  if (lostAt === undefined) return [{ ...claim, lostAt: new Date(now).toISOString() }];
  return now - Date.parse(lostAt) < RETRIED_WITHIN_MS ? [claim] : [];
}

function byTurn(a: SlotClaim, b: SlotClaim): number {
  return a.priority - b.priority || a.since.localeCompare(b.since);
}

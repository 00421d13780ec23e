import { mkdir, rename, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { RunDirectory } from './run-directory.ts';
import { readJson, writeJson } from './state-file.ts';

/** A trainer's end that was not asked for, and how far its checkpoints had come. */
export interface Crash {
  at: string;
  how: string;
  checkpointStep: number;
}

/** `train/attempts.json`: which training the folder holds, which activity attempt owns it, how its trainers died. */
interface OwnershipState {
  trainingDigest: string;
  owner: string;
  crashes: Crash[];
  /** ISO time when the folder was first used for this training. */
  since?: string;
}

/** Crashes in a row without a new checkpoint that end the stage. */
export const CRASH_LIMIT = 3;

/** What attempts of the training stage must know of each other. */
export class TrainingOwnership {
  readonly #run: RunDirectory;
  #state: OwnershipState;

  private constructor(run: RunDirectory, state: OwnershipState) {
    this.#run = run;
    this.#state = state;
  }

  /** Take this training over for a new owner; what another training left in the folder is set aside, never taken up. */
  static async open(
    run: RunDirectory,
    trainingDigest: string,
    owner: string,
    stopOther: () => Promise<void>,
  ): Promise<TrainingOwnership> {
    const before = await readJson<OwnershipState>(run.attempts);
    const same = before?.trainingDigest === trainingDigest;
    if (!same) {
      // Whoever watches the other trainer must see that it is superseded before it sees the trainer end.
      if (before !== undefined) await writeJson(run.attempts, { ...before, owner });
      await stopOther();
      await setAside(run, before?.trainingDigest);
    }
    const since = same ? before.since : new Date().toISOString();
    const ownership = new TrainingOwnership(run, {
      ...{ trainingDigest, owner, crashes: same ? before.crashes : [] },
      ...(since === undefined ? {} : { since }),
    });
    await ownership.#save();
    return ownership;
  }

  /** Whether no later attempt has taken the training over. */
  static async isOwner(run: RunDirectory, owner: string): Promise<boolean> {
    return (await readJson<OwnershipState>(run.attempts))?.owner === owner;
  }

  /** Write a crash down; returns how many there were in a row without a new checkpoint in between, this one included. */
  async noteCrash(how: string, checkpointStep: number): Promise<number> {
    const { crashes } = this.#state;
    crashes.push({ at: new Date().toISOString(), how, checkpointStep });
    await this.#save();
    const progress = crashes.findLastIndex((crash) => crash.checkpointStep !== checkpointStep);
    return crashes.length - 1 - progress;
  }

  async #save(): Promise<void> {
    await writeJson(this.#run.attempts, this.#state);
  }
}

/** Move all that another training left into a folder of their own beside; before the first, a stop request is this one's. */
async function setAside(run: RunDirectory, trainingDigest: string | undefined): Promise<void> {
  const leftovers = [
    run.trainOutput,
    run.events,
    run.trainerLog,
    run.process,
    run.exit,
    run.trainers,
    ...(trainingDigest === undefined ? [] : [run.stopRequest]),
  ];
  const there = await Promise.all(
    leftovers.map((path) =>
      stat(path).then(
        () => path,
        () => undefined,
      ),
    ),
  );
  const found = there.filter((path) => path !== undefined);
  if (found.length === 0) return;
  const folder = join(run.train, `superseded-${trainingDigest?.slice(0, 8) ?? 'unknown'}-${Date.now()}`);
  await mkdir(folder, { recursive: true });
  for (const path of found) await rename(path, join(folder, basename(path)));
}

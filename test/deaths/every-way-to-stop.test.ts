import { describe, expect, jest, test } from '@jest/globals';
import { WorkflowFailedError } from '@temporalio/client';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { lostSteps } from '../../bench/lost-steps.ts';
import { descendantsOf, identify, signal, type ProcessIdentity } from '../../host/process-table.ts';
import { readJson, writeJson } from '../../host/state-file.ts';
import { trainerIsAlive, type TrainerProcess } from '../../host/trainer-process.ts';
import { runs } from '../fixtures/trainers/stand-in.ts';
import {
  eventually,
  expectUndisturbed,
  finishUndisturbed,
  play,
  shortenHeartbeatTimeout,
  starts,
} from '../support/deaths.ts';

// Every way to stop, each with a server, a worker and a trainer of its own that are really killed; the trainer is a
// stand-in that starts at once. The same on LLaMA-Factory: llama-factory.test.ts, and in numbers bench/kill-matrix.ts.
jest.setTimeout(180_000);

const HEARTBEAT_TIMEOUT_S = 10;
const endless: ['succeeds', ...string[]] = [
  'succeeds',
  ...'--steps 1000000 --seconds-per-step 0.05 --save-steps 10'.split(' '),
];

describe('the trainer goes on without losing a step', () => {
  test.concurrent('when the worker is killed: the next one takes it up', async () => {
    await play(endless, async ({ rehearsal, run, trainer }) => {
      await shortenHeartbeatTimeout(run, HEARTBEAT_TIMEOUT_S);
      await rehearsal.killWorker('SIGKILL');
      await run.trainingPast((await run.step()) + 2);
      await rehearsal.startWorker();
      await run.followedBy(2, trainer.pid);
      await finishUndisturbed(run);
      expect(await starts(run)).toBe(1);
    });
  });

  test.concurrent('when the worker is stopped for a deploy', async () => {
    await play(endless, async ({ rehearsal, run, trainer }) => {
      await rehearsal.killWorker('SIGTERM');
      await run.trainingPast((await run.step()) + 2);
      await rehearsal.startWorker();
      await run.followedBy(2, trainer.pid);
      await finishUndisturbed(run);
      expect(await starts(run)).toBe(1);
    });
  });

  test.concurrent('when the server dies and is back before anybody missed a heartbeat', async () => {
    await play(endless, async ({ rehearsal, run, trainer }) => {
      await rehearsal.killServer();
      await run.trainingPast((await run.step()) + 2);
      await rehearsal.startServer();
      await eventually(async () => ((await run.pending())?.heartbeat?.step ?? 0) > 2);
      expect(await run.pending()).toMatchObject({ attempt: 1, heartbeat: { pid: trainer.pid } });
      await finishUndisturbed(run);
      expect(await starts(run)).toBe(1);
    });
  });

  test.concurrent('when the server dies and is away for longer than the heartbeat timeout', async () => {
    await play(endless, async ({ rehearsal, run, trainer }) => {
      await shortenHeartbeatTimeout(run, HEARTBEAT_TIMEOUT_S);
      await rehearsal.killServer();
      await sleep(2 * HEARTBEAT_TIMEOUT_S * 1000);
      await rehearsal.startServer();
      // Either the first attempt's next heartbeat or its timeout reaches the server first.
      const step = await run.step();
      await eventually(async () => {
        const pending = await run.pending();
        const { pid, step: seen = 0 } = pending?.heartbeat ?? {};
        return pending?.state === 'STARTED' && pid === trainer.pid && seen > step;
      }, 120_000);
      await finishUndisturbed(run);
      expect(await starts(run)).toBe(1);
    });
  });

  test.concurrent('when its attempt runs into the start-to-close timeout', async () => {
    await play(endless, async ({ run, trainer }) => {
      await run.activity('update-options', '--start-to-close-timeout', '10s');
      await run.followedBy(2, trainer.pid);
      await finishUndisturbed(run);
      expect(await starts(run)).toBe(1);
    });
  });

  test.concurrent('when the workflow is reset: its new execution takes the trainer over', async () => {
    await play(endless, async ({ rehearsal, run, trainer }) => {
      const owner = await ownerOf(run.directory.attempts);
      const reset = ['--type', 'FirstWorkflowTask', '--reason', 'a test'];
      await rehearsal.temporal('workflow', 'reset', '--workflow-id', run.name, ...reset);
      await eventually(async () => (await ownerOf(run.directory.attempts)) !== owner);
      await run.followedBy(1, trainer.pid);
      await finishUndisturbed(run);
      expect(await starts(run)).toBe(1);
    });
  });
});

describe('a trainer that is killed is resumed from its newest checkpoint', () => {
  test.concurrent('when the trainer itself is killed', async () => {
    await play(endless, async ({ run, trainer }) => {
      await run.trainingPast(12);
      signal(trainer, 'SIGKILL');
      const next = await eventually(async () => another(await run.trainer(), trainer));
      await run.trainingPast(20);
      await run.followedBy(2, next.pid);
      await finishUndisturbed(run);
      expect(Math.max(...lostSteps(await run.events()))).toBeLessThanOrEqual(10);
      expect(await starts(run)).toBe(2);
    });
  });

  test.concurrent('when server, worker and trainer are killed at once and a stranger then has its pid', async () => {
    await play(endless, async ({ rehearsal, run, trainer }) => {
      await shortenHeartbeatTimeout(run, HEARTBEAT_TIMEOUT_S);
      await run.trainingPast(12);
      await rehearsal.killEverything(run.directory);
      expect(trainerIsAlive(trainer)).toBe(false);
      // After a restart of the host the boot id is another, and any process may have the trainer's pid and start time.
      await writeJson(run.directory.process, { ...trainer, ...stranger(), keeper: stranger() });
      await rehearsal.startServer();
      await rehearsal.startWorker();
      await run.trainingPast(20);
      await finishUndisturbed(run);
      expect(Math.max(...lostSteps(await run.events()))).toBeLessThanOrEqual(10);
      expect(await starts(run)).toBe(2);
    });
  });
});

test.concurrent('a child of the trainer that is killed neither doubles the trainer nor outlives it', async () => {
  await play(['spawns_children', ...endless.slice(1)], async ({ run, trainer }) => {
    const children = (await readJson<number[]>(join(run.directory.trainOutput, 'children.json'))) ?? [];
    expect(children).toHaveLength(2);
    expect(descendantsOf(trainer.pid)).toEqual(children);
    process.kill(children[0] ?? 0, 'SIGKILL');
    await run.trainingPast((await run.step()) + 5);
    await finishUndisturbed(run);
    expect([trainer.pid, trainer.keeper.pid, ...children].filter(runs)).toEqual([]);
  });
});

test.concurrent(
  'a cancel has the whole tree gone within 15 seconds though it ignores SIGTERM, and keeps checkpoints',
  async () => {
    await play(['ignores_sigterm', ...endless.slice(1)], async ({ run, trainer }) => {
      await run.trainingPast(12);
      const asked = Date.now();
      await run.cancel();
      await eventually(() => ![trainer.pid, trainer.keeper.pid].some(runs));
      expect(Date.now() - asked).toBeLessThan(15_000);
      await expect(run.handle.result()).rejects.toBeInstanceOf(WorkflowFailedError);
      expect((await run.handle.describe()).status.name).toBe('CANCELLED');
      expect(readdirSync(run.directory.trainOutput)).toContain('checkpoint-10');
    });
  },
);

test.concurrent('a terminated run has its trainer stopped, and a new start of the run resumes it', async () => {
  await play(endless, async ({ rehearsal, run, trainer }) => {
    await run.terminate();
    await eventually(() => !trainerIsAlive(trainer));
    const again = await rehearsal.start('run', { name: 'stand-in' });
    await again.trainingPast(await again.step());
    await finishUndisturbed(again);
    expect(lostSteps(await again.events())).toEqual([0]);
    expect(await starts(again)).toBe(2);
  });
});

test.concurrent('a pause frees the GPU, and unpause goes on after the last step', async () => {
  await play(endless, async ({ run, trainer }) => {
    await run.activity('pause');
    await eventually(() => !trainerIsAlive(trainer));
    await eventually(async () => (await run.pending())?.state === 'PAUSED');
    await sleep(1_000);
    expect(await run.trainer()).toBeUndefined();
    await run.activity('unpause');
    await run.trainingPast(await run.step());
    await finishUndisturbed(run);
    expect(lostSteps(await run.events())).toEqual([0]);
  });
});

test.concurrent(
  'stopTraining ends the training after its step, keeps the adapter and goes on with the merge',
  async () => {
    await play(endless, async ({ run, trainer }) => {
      await run.finish();
      expect(trainerIsAlive(trainer)).toBe(false);
      expect(readdirSync(run.directory.trainOutput)).toContain('adapter_model.safetensors');
      const progress = await run.handle.query<{ stages: { stage: string; state: string; headline: string }[] }>(
        'progress',
      );
      const stages = progress.stages.map(({ stage, state, headline }) => [stage, state, headline]);
      expect(stages).toContainEqual(['trainModel', 'done', expect.stringContaining('stopped on request')]);
      expect(stages).toContainEqual(['mergeAdapter', 'done', 'merged']);
    });
  },
);

test.concurrent('a training that finished while the server was down is not done again', async () => {
  const flags = ['--steps', '60', '--seconds-per-step', '0.1'];
  await play(['succeeds', ...flags], async ({ rehearsal, run, trainer }) => {
    await shortenHeartbeatTimeout(run, HEARTBEAT_TIMEOUT_S);
    await rehearsal.killServer();
    await eventually(() => !trainerIsAlive(trainer));
    await sleep(12_000); // the worker gives up telling the server after about 10 s
    await rehearsal.startServer();
    await run.handle.result();
    await expectUndisturbed(run);
    expect(await run.step()).toBe(60);
    expect(await starts(run)).toBe(1);
  });
});

test.concurrent(
  "a trainer that fails three times in one place ends the run, with the trainer's own last words",
  async () => {
    await play(['fails', '--gain', '4', '--seconds-per-step', '0.2', '--save-steps', '10'], async ({ run }) => {
      const failure = await run.handle.result().catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(WorkflowFailedError);
      expect(JSON.stringify(await readJson(run.directory.attempts))).toContain('this row has no answer');
      expect(await starts(run)).toBe(3);
    });
  },
);

test.concurrent('a training of thousands of steps has no more history than one of a few', async () => {
  const eventsOf = async (flags: string[]) => {
    let count = 0;
    await play(['succeeds', ...flags], async ({ run }) => {
      await run.handle.result();
      count = Number((await run.handle.describe()).historyLength);
    });
    return count;
  };
  const [short, long] = await Promise.all([
    eventsOf(['--steps', '4']),
    eventsOf(['--steps', '5000', '--seconds-per-step', '0.004', '--save-steps', '500']),
  ]);
  expect(long - short).toBeLessThanOrEqual(40);
});

function another(now: TrainerProcess | undefined, before: TrainerProcess): TrainerProcess | undefined {
  return now !== undefined && now.pid !== before.pid ? now : undefined;
}

/** A process that runs, as it would look from before a restart of the host. */
function stranger(): ProcessIdentity {
  return { ...(identify(process.pid) as ProcessIdentity), bootId: 'the boot before' };
}

async function ownerOf(attempts: string): Promise<string | undefined> {
  return (await readJson<{ owner: string }>(attempts))?.owner;
}

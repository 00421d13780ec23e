import { WorkflowExecutionAlreadyStartedError, type Client, type WorkflowHandle } from '@temporalio/client';
import { setTimeout as sleep } from 'node:timers/promises';
import { TemperError } from '../host/errors.ts';
import { readSettings } from '../workers/settings.ts';
import type { FineTuneInput } from '../workflows/fine-tune-input.ts';
import type { fineTune } from '../workflows/fine-tune.ts';
import type { RunProgress } from '../workflows/progress.ts';
import { TASK_QUEUE } from '../workflows/queues.ts';
import { connectToServer } from './connect-to-server.ts';
import { runInput } from './run-input.ts';
import { findUp } from './up.ts';
import { exitCodeOf } from './watch/run-end.ts';
import { watchOnTerminal } from './watch/watch.ts';
import { rootCause } from './workflow-error.ts';

export interface StartArguments {
  name?: string;
  set: string[];
  host?: string;
  onlyIfChanged?: boolean;
  continueFrom: string;
  watch?: boolean;
  json?: boolean;
}

/** A config that can't be used is found within this. */
const LOOK_MS = 10_000;

/** `temper start CONFIG`: start a run, see that its config is taken, and watch it if that is wanted. */
export async function start(config: string, given: StartArguments): Promise<void> {
  const input = inputOf(config, given);
  const runName = given.name ?? newName(config);
  const client = await connectToServer();
  try {
    const handle = await client.workflow
      .start<typeof fineTune>('fineTune', {
        ...{ taskQueue: TASK_QUEUE, workflowId: runName, args: [input] },
        staticSummary: `Fine-tune by ${config}`,
      })
      .catch((error: unknown) => {
        if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
        throw new TemperError(
          'ConfigError',
          `A run ${runName} is under way; watch it with \`npx temper watch ${runName}\`.`,
        );
      });
    await say(runName, given.json === true);
    if (given.watch === true) process.exitCode = exitCodeOf(await watchOnTerminal(client, runName));
    else await seeItBegin(client, handle);
  } finally {
    await client.connection.close();
  }
}

function inputOf(config: string, { set, host, onlyIfChanged, continueFrom }: StartArguments): FineTuneInput {
  return {
    ...runInput(config, { set, continueFrom }),
    ...(host !== undefined && { host }),
    ...(onlyIfChanged === true && { onlyIfChanged }),
  };
}

/** The config's name and the time, such as `cards-20261126-214503`. */
function newName(config: string): string {
  const time = new Date().toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-');
  const name = config
    .replace(/\.ya?ml$/, '')
    .replaceAll(/[^A-Za-z0-9._-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '');
  return `${name || 'run'}-${time}`;
}

async function say(runName: string, json: boolean): Promise<void> {
  const up = await findUp(readSettings().home);
  const isThere = up !== undefined && up.address === process.env.TEMPORAL_ADDRESS;
  const ui = isThere ? `${up.uiUrl}/namespaces/default/workflows/${runName}` : null;
  if (json) return console.log(JSON.stringify({ runName, ui }));
  console.log(`Run ${runName} is started.${ui === null ? '' : ` In the Temporal UI: ${ui}`}`);
  console.log(`To look: npx temper watch ${runName}`);
}

/** Wait until the run has read its config; throws what is wrong with that. */
async function seeItBegin(client: Client, handle: WorkflowHandle<typeof fineTune>): Promise<void> {
  const deadline = Date.now() + LOOK_MS;
  while (Date.now() < deadline) {
    const progress = await client
      .withDeadline(deadline, () => handle.query<RunProgress>('progress'))
      .catch(() => undefined);
    const state = progress?.stages.find(({ stage }) => stage === 'loadConfig')?.state;
    if (state === 'done') return;
    if (state === 'failed') await handle.result().catch((error: unknown) => Promise.reject(rootCause(error) as Error));
    await sleep(200);
  }
  console.error('No worker has taken it yet: start `npx temper up`, or `npx temper worker` on the GPU host.');
}

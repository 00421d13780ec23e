import { ScheduleAlreadyRunning, ScheduleOverlapPolicy, type Client, type ScheduleOptions } from '@temporalio/client';
import { loadConfig } from '../configs/load.ts';
import { TemperError, messageOf } from '../host/errors.ts';
import { loadOptions } from '../host/settings.ts';
import { readSettings } from '../workers/settings.ts';
import type { FineTuneInput } from '../workflows/fine-tune-input.ts';
import { TASK_QUEUE } from '../workflows/queues.ts';
import { changesOf } from './changes-of.ts';
import { connectToServer } from './connect-to-server.ts';
import { runInput } from './run-input.ts';

export interface ScheduleArguments {
  cron: string;
  id?: string;
  timeZone?: string;
  overlap: string;
  catchUp: string;
  minNewRows?: string;
  continueFrom: string;
  always?: boolean;
  keepOnFailure?: boolean;
  set: string[];
  json?: boolean;
}

type NewSchedule = ScheduleOptions & { action: { type: 'startWorkflow' } };

const overlaps: Record<string, ScheduleOverlapPolicy> = {
  skip: ScheduleOverlapPolicy.SKIP,
  'buffer-one': ScheduleOverlapPolicy.BUFFER_ONE,
};

/** `temper schedule CONFIG --cron …`: make the schedule, or change the one of that ID; it stays paused if it is. */
export async function schedule(config: string, given: ScheduleArguments): Promise<void> {
  const { name } = loadConfig(config, loadOptions(readSettings()), changesOf(given.set));
  const wanted = scheduleOf(config, given.id ?? name, given);
  const client = await connectToServer();
  try {
    const changed = await createOrChange(client, wanted);
    const { info } = await client.schedule.getHandle(wanted.scheduleId).describe();
    const next = info.nextActionTimes.slice(0, 3);
    if (given.json === true) console.log(JSON.stringify({ scheduleId: wanted.scheduleId, changed, next }));
    else say(wanted.scheduleId, changed, next);
  } finally {
    await client.connection.close();
  }
}

/** What is asked of the server: unlike its defaults, a year of missed runs is not caught up, and a failed run pauses. */
export function scheduleOf(config: string, scheduleId: string, given: ScheduleArguments): NewSchedule {
  const overlap = overlaps[given.overlap];
  if (overlap === undefined) throw wrong('--overlap', given.overlap, Object.keys(overlaps).join(' or '));
  if (!/^\d+(\.\d+)?(s|m|h|d)$/.test(given.catchUp))
    throw wrong('--catch-up', given.catchUp, 'a time such as 30m, 6h or 2d');
  if (!/^[A-Za-z0-9][A-Za-z0-9._@+-]{0,149}$/.test(scheduleId))
    throw wrong('--id', scheduleId, '1 to 150 letters, digits and . _ @ + -, since its runs are named by it');
  return {
    scheduleId,
    spec: { cronExpressions: [given.cron], ...(given.timeZone === undefined ? {} : { timezone: given.timeZone }) },
    action: {
      ...{ type: 'startWorkflow', workflowType: 'fineTune', taskQueue: TASK_QUEUE, workflowId: scheduleId },
      args: [inputOf(config, given)],
    },
    policies: { overlap, catchupWindow: given.catchUp as '6h', pauseOnFailure: given.keepOnFailure !== true },
  };
}

function inputOf(config: string, { always, minNewRows, continueFrom, set }: ScheduleArguments): FineTuneInput {
  const input = runInput(config, { set, continueFrom });
  if (minNewRows !== undefined && !/^[1-9]\d*$/.test(minNewRows))
    throw wrong('--min-new-rows', minNewRows, 'a whole number from 1');
  if (always === true && minNewRows !== undefined)
    throw new TemperError('ConfigError', '--always and --min-new-rows contradict each other; leave one out.');
  return {
    ...input,
    ...(always === true ? {} : { onlyIfChanged: true }),
    ...(minNewRows === undefined ? {} : { minNewRows: Number(minNewRows) }),
  };
}

/** True when there was one of this ID. */
async function createOrChange(client: Client, wanted: NewSchedule): Promise<boolean> {
  const { scheduleId, ...options } = wanted;
  try {
    await client.schedule.create(wanted);
    return false;
  } catch (error) {
    if (!(error instanceof ScheduleAlreadyRunning)) throw refusal(scheduleId, error);
  }
  const handle = client.schedule.getHandle(scheduleId);
  const { action } = await handle.describe();
  if (action.workflowType !== 'fineTune')
    throw new TemperError(
      'ConfigError',
      `The schedule ${scheduleId} starts ${action.workflowType} and not fineTune; give another --id.`,
    );
  await handle
    .update(({ state }) => ({ ...options, state }))
    .catch((error: unknown) => {
      throw refusal(scheduleId, error);
    });
  return true;
}

function refusal(scheduleId: string, error: unknown): Error {
  const reason = messageOf(error instanceof Error && error.cause !== undefined ? error.cause : error);
  return new TemperError('ConfigError', `The server refused the schedule ${scheduleId}: ${reason.split('\n')[0]}`, {
    cause: error,
  });
}

function wrong(option: string, value: string, takes: string): TemperError {
  return new TemperError('ConfigError', `${option} ${value}: takes ${takes}.`);
}

function say(scheduleId: string, changed: boolean, next: Date[]): void {
  console.log(`Schedule ${scheduleId} is ${changed ? 'changed' : 'made'}.`);
  console.log(`Next: ${next.map((time) => time.toISOString()).join(', ') || 'never'}`);
  for (const command of ['describe', 'trigger', 'toggle --pause --reason "…"', 'delete'])
    console.log(`  temporal schedule ${command} --schedule-id ${scheduleId}`);
}

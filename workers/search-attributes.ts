import type { NativeConnection } from '@temporalio/worker';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../host/errors.ts';

/** Temper's search attributes, with the numbers of `temporal.api.enums.v1.IndexedValueType`. */
const wanted: Record<string, number> = { TemperStage: 2, TemperModel: 2, TemperOutcome: 2, TemperScore: 4 };

const PATIENCE_MS = 30_000;

/**
 * Whether runs can be found by Temper's search attributes; a namespace that lacks some gets them, if this worker may add them.
 * Without them runs go on and are found by name alone.
 */
export async function haveSearchAttributes(connection: NativeConnection, namespace: string): Promise<boolean> {
  try {
    const missing = await missingAttributes(connection, namespace);
    if (Object.keys(missing).length === 0) return true;
    await connection.operatorService.addSearchAttributes({ namespace, searchAttributes: missing });
    await untilTaken(connection, namespace);
    return true;
  } catch (error) {
    console.error(
      `Runs are not indexed: namespace ${namespace} has not the search attributes ${Object.keys(wanted).join(', ')}, and they could not be added (${messageOf(error).split('\n')[0]}). Have an administrator add them, then start the worker again.`,
    );
    return false;
  }
}

async function missingAttributes(connection: NativeConnection, namespace: string): Promise<Record<string, number>> {
  const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
  const wrong = Object.entries(wanted).filter(([name, type]) => (customAttributes[name] ?? type) !== type);
  if (wrong.length > 0) throw new Error(`${wrong.map(([name]) => name).join(', ')} there of another type`);
  return Object.fromEntries(Object.entries(wanted).filter(([name]) => customAttributes[name] === undefined));
}

/** A frontend refuses new search attributes until it has read the list again, some seconds later. */
async function untilTaken({ workflowService }: NativeConnection, namespace: string): Promise<void> {
  const query = "TemperStage = '' AND TemperModel = '' AND TemperOutcome = '' AND TemperScore = 0";
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    try {
      await workflowService.countWorkflowExecutions({ namespace, query });
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(500);
    }
  }
}

import { randomUUID } from 'node:crypto';
import type { HostDescription } from '../activities/hosts.ts';
import { connectToServer } from './connect-to-server.ts';
import type { hosts } from '../workflows/hosts.ts';
import { TASK_QUEUE } from '../workflows/queues.ts';

/** `temper hosts`: ask every worker's host what it has and does; exit code 1 when none answers. */
export async function listHosts({ json }: { json?: boolean }): Promise<void> {
  const client = await connectToServer();
  try {
    const found = await client.workflow.execute<typeof hosts>('hosts', {
      ...{ taskQueue: TASK_QUEUE, workflowId: `hosts-${randomUUID()}`, workflowExecutionTimeout: '30s' },
    });
    if (json === true) console.log(JSON.stringify(found, null, 2));
    else for (const host of found) console.log(describe(host));
  } catch {
    console.error('No host answers: start `temper up`, or `temper worker` on a GPU host.');
    process.exitCode = 1;
  } finally {
    await client.connection.close();
  }
}

function describe({ host, home, gpus, slots, training, waiting, deployments }: HostDescription): string {
  const busy = training.length === 0 ? 'idle' : `works on ${training.join(', ')}`;
  const queue = waiting === 0 ? '' : `, ${waiting} waiting`;
  const serves = deployments.length === 0 ? '' : `; serves ${deployments.join(', ')}`;
  const hardware = gpus.length === 0 ? 'no GPU' : gpus.join('; ');
  return `${host}  ${hardware}  ${slots} slot${slots === 1 ? '' : 's'}: ${busy}${queue}${serves}  ${home}`;
}

/**
 * Backs the production server up and restores it by the very commands of docs/runbook.md. Not part of `npm test`: run it
 * with `npm run test:docker`.
 */
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { newFolder } from '../fixtures/trainers/stand-in.ts';
import { ComposeStack, eventually, root } from '../support/compose.ts';

jest.setTimeout(300_000);

const folder = newFolder();
let stack: ComposeStack;

beforeAll(async () => {
  stack = await ComposeStack.prepare('temper-backup-test');
});

afterAll(() => stack.remove());

test('what was running before the volume was lost is there again after the restore, and goes on', async () => {
  const [backup, restore] = await commandsOfRunbook();
  await stack.compose('up', '--detach', '--wait');
  await startWorkflow('survivor');
  await signal('survivor', 'before-the-backup');
  await stack.temporal('schedule', 'create', '--schedule-id', 'nightly', '--cron', '0 2 * * *', ...type);
  const before = await stack.history('survivor');
  await eventually('the run is found', async () => expect(await found()).toContain('survivor'));

  await stack.shell(backup, folder);
  for (const name of ['temporal.dump', 'temporal_visibility.dump'])
    expect((await stat(join(folder, name))).size).toBeGreaterThan(10_000);
  await signal('survivor', 'after-the-backup');
  await stack.remove();

  await stack.shell(restore, folder);
  expect(await stack.history('survivor')).toEqual(before);
  expect(await found()).toContain('survivor');
  expect(await stack.temporal('schedule', 'list')).toContain('nightly');
  await eventually('a signal is taken', () => signal('survivor', 'after-the-restore'));
  expect((await stack.history('survivor')).at(-1)?.eventType).toBe('EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED');
  await startWorkflow('another');
  await eventually('a new run is found', async () => expect(await found()).toContain('another'));
});

test('the restore replaces what a server has written since', async () => {
  const [, restore] = await commandsOfRunbook();
  await stack.compose('stop', 'temporal', 'ui');
  await stack.shell(restore, folder);
  expect(await found()).toContain('survivor');
  expect(await found()).not.toContain('another');
});

const type = ['--type', 'fineTune', '--task-queue', 'nobody-polls', '--input', '{"config":"demo"}'];

async function startWorkflow(workflowId: string): Promise<void> {
  const attribute = ['--search-attribute', 'TemperStage="trainModel"'];
  await stack.temporal('workflow', 'start', '--workflow-id', workflowId, ...type, ...attribute);
}

async function signal(workflowId: string, name: string): Promise<void> {
  await stack.temporal('workflow', 'signal', '--workflow-id', workflowId, '--name', name, '--input', '{}');
}

async function found(): Promise<string> {
  return stack.temporal('workflow', 'list', '--query', "TemperStage = 'trainModel'");
}

/** The blocks that the runbook says are run here: backup and restore. */
async function commandsOfRunbook(): Promise<[string, string]> {
  const runbook = await readFile(join(root, 'docs/runbook.md'), 'utf8');
  const blocks = [...runbook.matchAll(/run as it stands by test\/docker\/backup\.test\.ts\. -->\n```bash\n(.*?)```/gs)];
  const [backup, restore] = blocks.map((match) => match[1]!);
  if (blocks.length !== 2 || backup === undefined || restore === undefined)
    throw new Error(`docs/runbook.md has ${blocks.length} blocks for this test`);
  return [backup, restore];
}

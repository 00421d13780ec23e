import { beforeAll, describe, expect, test } from '@jest/globals';
import { ESLint } from 'eslint';
import tseslint from 'typescript-eslint';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';

let eslint: ESLint;

/** The repository's own rules, without those that need types and therefore seconds. */
beforeAll(() => {
  const overrideConfig = [
    { ...tseslint.configs.disableTypeChecked, files: ['**/*.ts'] },
  ] as ESLint.Options['overrideConfig'];
  eslint = new ESLint({ cwd: checkout, overrideConfig: overrideConfig ?? null });
});

describe('lint refuses an import against the layers', () => {
  test.each([
    ['configs/load.ts', `import { checkout } from '../host/checkout.ts';`],
    ['configs/load.ts', `import { proxyActivities } from '@temporalio/workflow';`],
    ['host/disk.ts', `import { stage } from '../activities/stage.ts';`],
    ['host/disk.ts', `import { readSettings } from '../workers/settings.ts';`],
    ['host/disk.ts', `import type { StageName } from '../workflows/progress.ts';`],
    ['host/disk.ts', `import { Context } from '@temporalio/activity';`],
    ['activities/stage.ts', `import { readSettings } from '../workers/settings.ts';`],
    ['activities/stage.ts', `import { TASK_QUEUE } from '../workflows/queues.ts';`],
    ['activities/stage.ts', `import { up } from '../cli/up.ts';`],
    ['workers/settings.ts', `import { up } from '../cli/up.ts';`],
    ['workflows/fine-tune.ts', `import { readFile } from 'node:fs/promises';`],
    ['workflows/fine-tune.ts', `import { join } from 'path';`],
    ['workflows/fine-tune.ts', `import { z } from 'zod';`],
    ['workflows/fine-tune.ts', `import { parse } from 'yaml';`],
    ['workflows/fine-tune.ts', `import { Context } from '@temporalio/activity';`],
    ['workflows/fine-tune.ts', `import { Client } from '@temporalio/client';`],
    ['workflows/fine-tune.ts', `import { Worker } from '@temporalio/worker';`],
    ['workflows/fine-tune.ts', `import { errorNames } from '../host/errors.ts';`],
    ['workflows/fine-tune.ts', `import { configSchema } from '../configs/schema.ts';`],
  ])('%s: %s', async (file, line) => {
    expect(await importErrors(file, line)).toEqual([expect.stringMatching(/import/)]);
  });
});

describe('and lets one along them pass', () => {
  test.each([
    ['host/disk.ts', `import type { ResolvedConfig } from '../configs/schema.ts';`],
    ['activities/stage.ts', `import { formatBytes } from '../host/disk.ts';`],
    ['workers/settings.ts', `import { TASK_QUEUE } from '../workflows/queues.ts';`],
    ['cli/up.ts', `import { readSettings } from '../workers/settings.ts';`],
    ['workflows/fine-tune.ts', `import type { ErrorName } from '../host/errors.ts';`],
    ['workflows/fine-tune.ts', `import { proxyActivities } from '@temporalio/workflow';`],
    ['workflows/fine-tune.ts', `import { TASK_QUEUE } from './queues.ts';`],
  ])('%s: %s', async (file, line) => {
    expect(await importErrors(file, line)).toEqual([]);
  });
});

/** The rules that an import line breaks where it stood in this file; that it is not used does not matter here. */
async function importErrors(file: string, line: string): Promise<string[]> {
  const [result] = await eslint.lintText(`${line}\n`, { filePath: join(checkout, file) });
  const rules = result?.messages.map(({ ruleId, message }) => ruleId ?? message) ?? [];
  return rules.filter((rule) => rule !== '@typescript-eslint/no-unused-vars');
}

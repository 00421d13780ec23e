import { Context } from '@temporalio/activity';
import { WorkflowNotFoundError } from '@temporalio/common';
import { formatBytes } from '../host/disk.ts';
import { TemperError } from '../host/errors.ts';
import {
  cleanRun,
  planCleaning,
  type CleanableRun,
  type CleaningPlan,
  type KeptRun,
  type RetentionPolicy,
} from '../host/retention.ts';
import type { StageContext, StageResult } from './stage.ts';

export interface CleanRunsInput extends Partial<RetentionPolicy> {
  /** Only say what would go; the default. */
  dryRun?: boolean;
}

export interface CleaningResult extends StageResult {
  dryRun: boolean;
  cleaned: CleanableRun[];
  kept: KeptRun[];
  bytes: number;
}

const defaults: Required<CleanRunsInput> = { keepDays: 30, keepNewest: 3, dryRun: true };

/** Which old runs the policy would clean, and what that frees. */
export async function planCleanRuns(
  input: CleanRunsInput,
  { settings: { home } }: StageContext,
): Promise<CleaningPlan & { dryRun: boolean } & StageResult> {
  const { dryRun, ...policy } = requirePolicy(input);
  const plan = await planCleaning(home, policy, isOpen);
  return { ...plan, dryRun, headline: describe('would be cleaned', plan.clean, plan.kept) };
}

/** Clean what the plan names, but for what has come to be needed since. */
export async function applyCleanRuns(
  { clean, kept }: CleaningPlan,
  { settings: { home }, signal, report }: StageContext,
): Promise<CleaningResult> {
  const done: (CleanableRun | KeptRun)[] = [];
  for (const run of clean) {
    signal.throwIfAborted();
    report({ message: `cleaning run ${run.runName}`, done: done.length, of: clean.length });
    done.push(await cleanRun(home, run, isOpen));
  }
  const cleaned = done.filter((each) => 'bytes' in each);
  const spared = [...kept, ...done.filter((each) => 'why' in each)];
  return { dryRun: false, cleaned, kept: spared, bytes: sum(cleaned), headline: describe('cleaned', cleaned, spared) };
}

function requirePolicy(input: CleanRunsInput): Required<CleanRunsInput> {
  const policy = { ...defaults, ...input };
  const unknown = Object.keys(input).filter((key) => !(key in defaults));
  const isCount = (value: unknown) => typeof value === 'number' && value >= 0 && Number.isFinite(value);
  const wrong = [
    ...unknown.map((key) => `it has no key ${key}`),
    ...(isCount(policy.keepDays) ? [] : ['keepDays takes a number of days from 0']),
    ...(Number.isInteger(policy.keepNewest) && policy.keepNewest >= 0
      ? []
      : ['keepNewest takes a whole number from 0']),
    ...(typeof policy.dryRun === 'boolean' ? [] : ['dryRun takes true or false']),
  ];
  if (wrong.length === 0) return policy;
  throw new TemperError(
    'ConfigError',
    `cleanRuns takes one object, such as {"keepDays": 30, "keepNewest": 3, "dryRun": false}: ${wrong.join('; ')}.`,
  );
}

/** Whether a workflow of this name goes on; one that the server has forgotten has ended long ago. */
async function isOpen(runName: string): Promise<boolean> {
  try {
    const { status } = await Context.current().client.workflow.getHandle(runName).describe();
    return status.name === 'RUNNING' || status.name === 'PAUSED';
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return false;
    throw error;
  }
}

function describe(what: string, clean: CleanableRun[], kept: KeptRun[]): string {
  const spared = kept.length === 0 ? '' : `; ${kept.length} needed and kept`;
  return `${clean.length} run${clean.length === 1 ? '' : 's'} ${what}, ${formatBytes(sum(clean))}${spared}`;
}

function sum(runs: CleanableRun[]): number {
  return runs.reduce((total, { bytes }) => total + bytes, 0);
}

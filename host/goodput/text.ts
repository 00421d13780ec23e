import { causes, type Account, type Cause } from './account.ts';
import { startUpParts, type StartUp, type StartUpPart } from './start-ups.ts';

export const causeNames: Record<Cause, string> = {
  productive: 'productive',
  queue: 'queue',
  startUp: 'start-up',
  preprocessing: 'preprocessing',
  repeated: 'repeated',
  evaluation: 'evaluation',
  saving: 'saving',
  hang: 'hang',
  idle: 'idle',
};

export const partNames: Record<StartUpPart, string> = {
  waiting: 'waiting',
  beforeTrainer: 'worker',
  process: 'process',
  importing: 'imports',
  parsing: 'parsing',
  preprocessing: 'rows',
  loading: 'loading',
  firstStep: 'first step',
  other: 'other',
};

/** What of a start each name means, for people. */
export const partsExplained =
  'waiting: from the death of the trainer before to the next attempt; worker: from the attempt to the trainer; process: Python and the check of checkpoints; rows: tokenizing, or reading rows that are; loading: the base.';

/** Seconds by cause over several trainings. */
export function sumOf(accounts: Pick<Account, 'seconds' | 'wallSeconds'>[]): Pick<Account, 'seconds' | 'wallSeconds'> {
  const total = (cause: Cause) => accounts.reduce((sum, { seconds }) => sum + seconds[cause], 0);
  return {
    seconds: Object.fromEntries(causes.map((cause) => [cause, total(cause)])) as Record<Cause, number>,
    wallSeconds: accounts.reduce((sum, { wallSeconds }) => sum + wallSeconds, 0),
  };
}

/** Of each start what it was, its seconds until the first step, and those of each part. */
export function startUpRows(startUps: StartUp[]): string[][] {
  return startUps.map(({ isResume, resumedAtStep, seconds, parts }) => [
    isResume ? `resume after step ${resumedAtStep}` : 'start',
    seconds === null ? 'no step' : secondsText(seconds),
    ...startUpParts.map((part) => secondsText(parts[part])),
  ]);
}

export function secondsText(seconds: number): string {
  return seconds.toFixed(1);
}

/** A share as percent; a dash where it is not known. */
export function percent(share: number | null | undefined): string {
  return share == null ? '–' : `${(share * 100).toFixed(1)} %`;
}

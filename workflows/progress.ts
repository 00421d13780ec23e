/** The stages, in the order they run. */
export const stageNames = [
  'loadConfig',
  'checkEnvironment',
  'validateDataset',
  'trainModel',
  'mergeAdapter',
  'patchFp16',
  'evaluateModel',
  'deployModel',
] as const;

export type StageName = (typeof stageNames)[number];

export type StageState =
  'waiting' | 'awaitingApproval' | 'scheduled' | 'running' | 'done' | 'skipped' | 'failed' | 'cancelled';

export interface StageProgress {
  stage: StageName;
  /** `awaitingApproval` waits for a person, `scheduled` for a free worker slot; `running` has begun on a host. */
  state: StageState;
  /** ISO time when the newest attempt began, or when the stage was scheduled. */
  started: string | null;
  finished: string | null;
  attempt: number | null;
  /** The stage's main figure, or why it failed or was skipped. */
  headline: string | null;
}

export interface RunProgress {
  runName: string;
  stages: StageProgress[];
}

/** Keeps the stages' states and tells `onChange` after each change. */
export class ProgressBoard {
  readonly #stages: StageProgress[];
  readonly #runName: string;
  readonly #onChange: (board: ProgressBoard) => void;

  constructor(runName: string, onChange: (board: ProgressBoard) => void) {
    this.#runName = runName;
    this.#onChange = onChange;
    this.#stages = stageNames.map((stage) => ({
      stage,
      state: 'waiting',
      started: null,
      finished: null,
      attempt: null,
      headline: null,
    }));
    onChange(this);
  }

  set(stage: StageName, change: Partial<Omit<StageProgress, 'stage'>>): void {
    Object.assign(this.get(stage), change);
    this.#onChange(this);
  }

  /** An attempt of a stage began on a host; late news about a stage that has ended is passed over. */
  began(stage: StageName, attempt: number, at: string): void {
    const { state } = this.get(stage);
    if (state === 'scheduled' || state === 'running') this.set(stage, { state: 'running', started: at, attempt });
  }

  get(stage: StageName): StageProgress {
    const found = this.#stages.find((candidate) => candidate.stage === stage);
    if (found === undefined) throw new Error(`no stage ${stage}`);
    return found;
  }

  toJSON(): RunProgress {
    return { runName: this.#runName, stages: this.#stages.map((stage) => ({ ...stage })) };
  }

  /** A Markdown table for the Temporal UI. */
  toMarkdown(): string {
    const marks: Record<StageState, string> = {
      waiting: '·',
      awaitingApproval: '**waiting for approval**',
      scheduled: 'waiting for a worker',
      running: '**running**',
      done: 'done',
      skipped: 'skipped',
      failed: '**failed**',
      cancelled: 'cancelled',
    };
    const rows = this.#stages.map(({ stage, state, started, finished, attempt, headline }) =>
      [stage, marks[state], timeOfDay(started), timeOfDay(finished), attempt ?? '', escapeCell(headline ?? '')].join(
        ' | ',
      ),
    );
    const head = ['stage | state | started | finished | attempt | result', '--- | --- | --- | --- | --- | ---'];
    return [...head, ...rows].map((row) => `| ${row} |`).join('\n');
  }
}

function timeOfDay(iso: string | null): string {
  return iso === null ? '' : `${iso.slice(11, 19)} UTC`;
}

function escapeCell(text: string): string {
  return text.split('\n')[0]?.replaceAll('|', '\\|') ?? '';
}

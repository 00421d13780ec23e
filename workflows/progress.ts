/** The stages, in the order they run. */
export const stageNames = [
  'loadConfig',
  'checkEnvironment',
  'validateDataset',
  'planTraining',
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

/** Where to look for more than the board says; null what is not there (yet). */
export interface RunLinks {
  /** Of the run's directory, on its host. */
  path: string | null;
  reportUrl: string | null;
  pageUrl: string | null;
  apiUrl: string | null;
}

/** Keeps the stages' states and tells `onChange` after each change. */
export class ProgressBoard {
  readonly #stages: StageProgress[];
  readonly #runName: string;
  readonly #onChange: (board: ProgressBoard) => void;
  readonly #links: RunLinks = { path: null, reportUrl: null, pageUrl: null, apiUrl: null };

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

  link(links: Partial<RunLinks>): void {
    Object.assign(this.#links, links);
    this.#onChange(this);
  }

  /** An attempt of a stage began on a host; late news about one that has ended, or about no stage, is passed over. */
  began(stage: StageName, attempt: number, at: string): void {
    const state = this.#stages.find((candidate) => candidate.stage === stage)?.state;
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

  /** For the Temporal UI: what goes on, a table of the stages, and where to look. */
  toMarkdown(): string {
    return [this.#nowMarkdown(), this.#tableMarkdown(), this.#linksMarkdown()]
      .filter((part) => part !== '')
      .join('\n\n');
  }

  #nowMarkdown(): string {
    const failed = this.#stages.find(({ state }) => state === 'failed');
    if (failed !== undefined) return `**${failed.stage} failed:** ${failed.headline ?? ''}`;
    if (this.#stages.some(({ state }) => state === 'awaitingApproval')) return approvalMarkdown(this.#runName);
    const current = this.#stages.find(({ state }) => state === 'running' || state === 'scheduled');
    if (current === undefined) return '';
    const attempt = (current.attempt ?? 1) > 1 ? `, attempt ${current.attempt}` : '';
    return `**${current.stage}**${attempt}. Live in a terminal: \`npx temper watch ${this.#runName}\``;
  }

  #linksMarkdown(): string {
    const { path, reportUrl, pageUrl, apiUrl } = this.#links;
    const open = `\`npx temper report ${this.#runName} --open\``;
    return [
      ...(pageUrl === null ? [] : [`[chat page](${pageUrl})`]),
      ...(apiUrl === null ? [] : [`[API](${apiUrl}/v1/models)`]),
      ...(reportUrl === null ? (path === null ? [] : [`report: ${open}`]) : [`[report](${reportUrl})`]),
      ...(path === null ? [] : [`directory: \`${path}\``]),
    ].join(' · ');
  }

  #tableMarkdown(): string {
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

function approvalMarkdown(runName: string): string {
  const command = (name: string) =>
    `temporal workflow update execute --workflow-id ${runName} --name ${name} --input '{"by":"…","why":"…"}'`;
  return `**Waits for approval.** Swap the candidate in, or leave the champion:\n\n\`\`\`\n${command('approve')}\n${command('reject')}\n\`\`\``;
}

function timeOfDay(iso: string | null): string {
  return iso === null ? '' : `${iso.slice(11, 19)} UTC`;
}

function escapeCell(text: string): string {
  return text.split('\n')[0]?.replaceAll('|', '\\|') ?? '';
}

import {
  CancellationScope,
  ChildWorkflowCancellationType,
  ParentClosePolicy,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import type { EvaluateModelResult } from '../activities/evaluate-model.ts';
import type { LoadConfigResult } from '../activities/load-config.ts';
import type { NotifyEntry, RunEvent } from '../configs/notify-schema.ts';
import type { ResolvedConfig } from '../configs/schema.ts';
import type { Notice } from '../host/notifications/notice.ts';
import type { notifyRun } from './notify-run.ts';
import { now } from './stage-runner.ts';

/** Tells of a run's events; what becomes of that is no matter of the run. */
export class Notices {
  /** null while the config is not read: then the host's own settings say who is told. */
  entries: NotifyEntry[] | null = null;
  #config: ResolvedConfig | undefined;
  #reportUrl: string | null = null;
  #evaluation: Notice['evaluation'] = null;

  /** From now on those are told whom the config, or else the host, names; histories of before name nobody. */
  loaded({ config, reportUrl = null, notify = [] }: LoadConfigResult): void {
    this.#config = config;
    this.#reportUrl = reportUrl;
    this.entries = notify;
  }

  evaluated({ scores: { candidate, base, champion } }: EvaluateModelResult): void {
    this.#evaluation = {
      ...{ metric: candidate.metric, rows: candidate.rows, candidate: candidate.score },
      ...{ base: base?.score ?? null, champion: champion?.score ?? null },
    };
  }

  /** Resolves when the telling has begun. Cancelling the run does not stop it, nor does the run's end. */
  async tell(
    event: RunEvent,
    host: string | null,
    facts: Partial<Pick<Notice, 'why' | 'apiUrl' | 'pageUrl' | 'approvalHours'>> = {},
  ): Promise<void> {
    const entries = this.entries?.filter(({ on }) => on.includes(event)) ?? null;
    if (entries?.length === 0) return;
    const { runId, workflowId: runName, startTime } = workflowInfo();
    const notice: Notice = {
      ...{ id: `${runId}-${event}`, event, runName, at: now(), startedAt: startTime.toISOString() },
      ...{ why: null, apiUrl: null, pageUrl: null, approvalHours: null, ...facts },
      config: this.#config?.name ?? null,
      deployment: this.#config?.deploy.enabled === true ? this.#config.deploy.name : null,
      evaluation: this.#evaluation,
      reportUrl: this.#reportUrl,
    };
    const start = () =>
      startChild<typeof notifyRun>('notifyRun', {
        workflowId: `notify-${notice.id}`,
        args: [{ notice, entries, host }],
        parentClosePolicy: ParentClosePolicy.ABANDON,
        cancellationType: ChildWorkflowCancellationType.ABANDON,
        staticSummary: `${runName}: ${event}`,
      });
    await CancellationScope.nonCancellable(start).catch(() => {});
  }
}

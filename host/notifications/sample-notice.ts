import { randomUUID } from 'node:crypto';
import type { RunEvent } from '../../configs/notify-schema.ts';
import type { NoticeFromHost } from './notice.ts';

/** A notice of a run that never was, to try a receiver with. */
export function sampleNotice(event: RunEvent, host = 'this-host'): NoticeFromHost {
  const at = new Date();
  const isServed = event === 'deployed';
  return {
    ...{ id: `${randomUUID()}-${event}`, event, runName: 'a-trial', host, namespace: 'default' },
    ...{ at: at.toISOString(), startedAt: new Date(at.getTime() - 2 * 3_600_000).toISOString() },
    why: 'This is a trial by `temper notify`; no run has anything to do with it.',
    ...{ config: 'a-config', deployment: 'a-deployment' },
    evaluation: { metric: 'exact', rows: 200, candidate: 0.9, base: 0.25, champion: 0.85 },
    apiUrl: isServed ? 'http://127.0.0.1:8000' : null,
    pageUrl: isServed ? 'http://127.0.0.1:7860' : null,
    approvalHours: event === 'awaitingApproval' ? 72 : null,
    ...{ runDirectory: null, report: null, reportUrl: null },
  };
}

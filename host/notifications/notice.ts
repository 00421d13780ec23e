import type { RunEvent } from '../../configs/notify-schema.ts';
import type { Metric } from '../judging/scoring.ts';

/** What the workflow says of an event of its run. */
export interface Notice {
  /** The same however often it is sent. */
  id: string;
  event: RunEvent;
  runName: string;
  /** ISO times when it came about, and when the run was started. */
  at: string;
  startedAt: string;
  /** Why it ended so. */
  why: string | null;
  /** The config's name, and the deployment's where the config has one. */
  config: string | null;
  deployment: string | null;
  /** Means over the held-out rows, from 0 to 1. */
  evaluation: {
    metric: Metric;
    rows: number;
    candidate: number;
    base: number | null;
    champion: number | null;
  } | null;
  apiUrl: string | null;
  pageUrl: string | null;
  /** Where the worker serves reports. */
  reportUrl: string | null;
  /** For how long approve and reject are taken, if the run waits for them. */
  approvalHours: number | null;
}

/** What the run's host adds to it. */
export interface NoticeFromHost extends Notice {
  host: string;
  /** Absolute paths; null when there is none yet. */
  runDirectory: string | null;
  report: string | null;
  /** Temporal's namespace of the run. */
  namespace: string;
}

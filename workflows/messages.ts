import { defineQuery, defineSignal, defineUpdate } from '@temporalio/workflow';
import type { Approval } from '../activities/deploy-model.ts';
import type { RunProgress, StageName } from './progress.ts';

/** Where the run stands, stage by stage: `temporal workflow query -w <run name> --type progress`. */
export const progressQuery = defineQuery<RunProgress>('progress');

/** Sent by an activity when an attempt of it begins on a host, so that "scheduled" and "running" can be told apart. */
export const stageStartedSignal = defineSignal<[{ stage: StageName; attempt: number }]>('stageStarted');

/** `{"reason": "…"}`: finish training after the current step, keep the adapter, go on with the merge. */
export const stopTrainingUpdate = defineUpdate<string, [{ reason?: string }]>('stopTraining');

/** `{"by": "…", "why": "…"}`: put the candidate that waits for approval into service. */
export const approveUpdate = defineUpdate<string, [Approval]>('approve');

/** `{"by": "…", "why": "…"}`: leave the champion in service; the candidate stays on disk. */
export const rejectUpdate = defineUpdate<string, [Approval]>('reject');

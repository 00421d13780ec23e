import type { HostSettings } from '../host/settings.ts';
import { checkEnvironment } from './check-environment.ts';
import { deployModel } from './deploy-model.ts';
import { discardCandidate } from './discard-candidate.ts';
import { evaluateModel } from './evaluate-model.ts';
import { loadConfig } from './load-config.ts';
import { mergeAdapter } from './merge-adapter.ts';
import { patchFp16 } from './patch-fp16.ts';
import { recordRun } from './record-run.ts';
import { requestStop } from './request-stop.ts';
import { applyRollback, planRollback } from './roll-back.ts';
import { stage } from './stage.ts';
import { trainModel } from './train-model.ts';
import { validateDataset } from './validate-dataset.ts';

/** The activities of a host: each stage's work, bound to what this host's settings allow. */
export function createActivities(settings: HostSettings) {
  return {
    loadConfig: stage('loadConfig', settings, loadConfig, { announced: false }),
    checkEnvironment: stage('checkEnvironment', settings, checkEnvironment),
    validateDataset: stage('validateDataset', settings, validateDataset),
    trainModel: stage('trainModel', settings, trainModel),
    mergeAdapter: stage('mergeAdapter', settings, mergeAdapter),
    patchFp16: stage('patchFp16', settings, patchFp16),
    evaluateModel: stage('evaluateModel', settings, evaluateModel),
    deployModel: stage('deployModel', settings, deployModel),
    discardCandidate: stage('discardCandidate', settings, discardCandidate, { announced: false }),
    planRollback: stage('planRollback', settings, planRollback, { announced: false, ofRun: false }),
    applyRollback: stage('applyRollback', settings, applyRollback, { announced: false, ofRun: false }),
    requestStop: stage('requestStop', settings, requestStop, { announced: false }),
    recordRun: stage('recordRun', settings, recordRun, { announced: false }),
  };
}

export type Activities = ReturnType<typeof createActivities>;

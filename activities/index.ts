import type { HostSettings } from '../host/settings.ts';
import { checkEnvironment } from './check-environment.ts';
import { applyCleanRuns, planCleanRuns } from './clean-runs.ts';
import { deployModel } from './deploy-model.ts';
import { detectChange } from './detect-change.ts';
import { discardCandidate } from './discard-candidate.ts';
import { evaluateModel } from './evaluate-model.ts';
import { describeHost, listHosts } from './hosts.ts';
import { joinTraining } from './join-training.ts';
import { loadConfig } from './load-config.ts';
import { mergeAdapter } from './merge-adapter.ts';
import { notify } from './notify.ts';
import { patchFp16 } from './patch-fp16.ts';
import { planTraining } from './plan-training.ts';
import { recordRun } from './record-run.ts';
import { requestStop } from './request-stop.ts';
import { applyRollback, planRollback } from './roll-back.ts';
import { stage } from './stage.ts';
import { trainModel } from './train-model.ts';
import { validateDataset } from './validate-dataset.ts';

/**
 * The activities of a host: each stage's work, bound to what this host's settings allow. A run whose training is done goes before waiting trainings, so that
 * it is in service before the next one trains; a model may be watched for a day after its swap.
 */
export function createActivities(settings: HostSettings) {
  return {
    listHosts: stage('listHosts', settings, listHosts, { announced: false, ofRun: false }),
    describeHost: stage('describeHost', settings, describeHost, { announced: false, ofRun: false }),
    loadConfig: stage('loadConfig', settings, loadConfig, { announced: false }),
    checkEnvironment: stage('checkEnvironment', settings, checkEnvironment),
    validateDataset: stage('validateDataset', settings, validateDataset),
    detectChange: stage('detectChange', settings, detectChange, { announced: false }),
    planTraining: stage('planTraining', settings, planTraining),
    trainModel: stage('trainModel', settings, trainModel, { gpu: { priority: 2 } }),
    joinTraining: stage('joinTraining', settings, joinTraining, { announced: false, gpu: { priority: 2 } }),
    mergeAdapter: stage('mergeAdapter', settings, mergeAdapter),
    patchFp16: stage('patchFp16', settings, patchFp16, { gpu: { priority: 1, hours: 6 } }),
    evaluateModel: stage('evaluateModel', settings, evaluateModel, { gpu: { priority: 1, hours: 6 } }),
    deployModel: stage('deployModel', settings, deployModel, { gpu: { priority: 1, hours: 30 } }),
    discardCandidate: stage('discardCandidate', settings, discardCandidate, { announced: false }),
    planRollback: stage('planRollback', settings, planRollback, { announced: false, ofRun: false }),
    applyRollback: stage('applyRollback', settings, applyRollback, { announced: false, ofRun: false }),
    planCleanRuns: stage('planCleanRuns', settings, planCleanRuns, { announced: false, ofRun: false }),
    applyCleanRuns: stage('applyCleanRuns', settings, applyCleanRuns, { announced: false, ofRun: false }),
    requestStop: stage('requestStop', settings, requestStop, { announced: false }),
    recordRun: stage('recordRun', settings, recordRun, { announced: false }),
    notify: stage('notify', settings, notify, { announced: false, ofRun: false }),
  };
}

export type Activities = ReturnType<typeof createActivities>;

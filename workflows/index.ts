export { cleanRuns } from './clean-runs.ts';
export { fineTune } from './fine-tune.ts';
export { hosts } from './hosts.ts';
export { notifyRun } from './notify-run.ts';
export { rollback } from './rollback.ts';

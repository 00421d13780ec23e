import { CancellationScope, isCancellation, sleep } from '@temporalio/workflow';
import type { ResolvedConfig } from '../configs/schema.ts';
import type { PlannedTraining } from '../activities/plan-training.ts';
import { now, reasonOf, type StageRunner } from './stage-runner.ts';
import { joinTraining } from './stages.ts';

/** For the other hosts' trainers to end by themselves once the training has. */
const PARTING_MS = 60_000;

/**
 * Do `train`, which trains on the run's own host, while the plan's other hosts train along; whatever ends first for good, the
 * training or a host's part of it, ends them all.
 */
export async function trainTogether<T>(
  runner: StageRunner,
  { config, plan }: { config: ResolvedConfig; plan: PlannedTraining },
  train: () => Promise<T>,
): Promise<T> {
  const others = plan.together?.hosts.slice(1) ?? [];
  if (others.length === 0) return train();
  return CancellationScope.cancellable(async () => {
    const parts = others.map((host, index) =>
      joinTraining(host, config.limits.hostHours).executeWithOptions(
        { summary: `Train on ${host}, too`, scheduleToCloseTimeout: `${config.limits.trainingHours}h` },
        [{ config, plan, rank: index + 1 }],
      ),
    );
    const own = train();
    const failure = Promise.all(parts).then(() => new Promise<never>(() => {}));
    const end = async () => {
      CancellationScope.current().cancel();
      await CancellationScope.nonCancellable(() => Promise.allSettled([...parts, own]));
    };
    try {
      const result = await Promise.race([own, failure]);
      await Promise.race([Promise.allSettled(parts), sleep(PARTING_MS)]);
      await end();
      return result;
    } catch (error) {
      await end();
      if (!isCancellation(error))
        runner.board.set('trainModel', { state: 'failed', finished: now(), headline: reasonOf(error) });
      throw error;
    }
  });
}

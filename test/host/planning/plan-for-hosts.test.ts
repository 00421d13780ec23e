import { expect, test } from '@jest/globals';
import { factsFor } from '../../../bench/plans.ts';
import { makePlanForHosts } from '../../../host/planning/plan-for-hosts.ts';
import { makePlan, type PlanFacts } from '../../../host/planning/plan.ts';
import { qwen3VL } from '../../support/planning.ts';

function facts(changes: Partial<PlanFacts> = {}): PlanFacts {
  return { ...factsFor('RTX 4090', 2, qwen3VL('4b'), 'lora'), ...changes };
}

test('the global batch is shared among the GPUs of all hosts, and an epoch has as many steps as on one', () => {
  const wishes = { globalBatchSize: 32, gpuHourPrice: 1 };
  const [one, two] = [1, 2].map((hosts) => makePlanForHosts(facts({ wishes }), hosts));
  expect(two!.globalBatch).toBe(32);
  expect(two!.cut.microBatch * two!.cut.accumulation * two!.gpus * 2).toBe(32);
  expect(two!.prediction.steps).toBe(one!.prediction.steps);
  expect(two!.prediction.hours).toBeLessThan(one!.prediction.hours!);
  expect(two!.prediction.cost).toBeCloseTo(two!.prediction.hours! * two!.gpus * 2);
});

test('where the config fixes the cut of a GPU the global batch grows with the hosts', () => {
  const options = { ...facts().options, per_device_train_batch_size: 2, gradient_accumulation_steps: 4 };
  const one = makePlan(facts({ options, wishes: {} }));
  const two = makePlanForHosts(facts({ options, wishes: {} }), 2);
  expect([two.cut, two.globalBatch]).toEqual([one.cut, 2 * one.globalBatch]);
});

test('a global batch that the hosts cannot share is refused with what to set', () => {
  expect(() => makePlanForHosts(facts({ wishes: { globalBatchSize: 16 } }), 3)).toThrow(
    /can't share the global batch of 16 rows evenly; set plan.globalBatchSize to a multiple of 3/,
  );
});

import { TemperError } from '../errors.ts';
import { globalBatchOf } from './candidates.ts';
import { makePlan, type PlanFacts, type TrainingPlan } from './plan.ts';

/**
 * The plan of each of so many equal hosts that train together: its share of the global batch, on GPUs like those of `facts`. Time
 * for what they tell each other is not predicted. Throws ConfigError when the global batch can't be shared evenly.
 */
export function makePlanForHosts(facts: PlanFacts, hosts: number): TrainingPlan {
  if (hosts === 1) return makePlan(facts);
  const { options, wishes, rows } = facts;
  // Where the options fix the cut of each GPU, more hosts make the global batch larger.
  const isFixed =
    wishes.globalBatchSize === undefined &&
    options.per_device_train_batch_size !== undefined &&
    options.gradient_accumulation_steps !== undefined;
  const whole = globalBatchOf(options, wishes, 1);
  if (!isFixed && whole % hosts !== 0)
    throw new TemperError(
      'ConfigError',
      `plan.hosts are ${hosts}, which can't share the global batch of ${whole} rows evenly; set plan.globalBatchSize to a multiple of ${hosts}.`,
    );
  const plan = makePlan({
    ...facts,
    wishes: isFixed ? wishes : { ...wishes, globalBatchSize: whole / hosts },
    rows: { ...rows, rows: Math.ceil(rows.rows / hosts) },
  });
  const { cost } = plan.prediction;
  return {
    ...plan,
    globalBatch: plan.globalBatch * hosts,
    prediction: { ...plan.prediction, cost: cost === null ? null : cost * hosts },
  };
}

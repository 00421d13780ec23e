import { formatBytes } from '../disk.ts';
import { contextBytes } from './memory.ts';
import type { Way } from './candidates.ts';
import type { TrainingPlan } from './plan.ts';

/** A plan in one line: `16 × 1 rows on 1 GPU, bf16, about 2.1 h, 19 GiB a GPU`. */
export function describePlan({ cut, gpus, way, prediction }: TrainingPlan): string {
  const { memory, hours, steps } = prediction;
  const where = gpus === 0 ? 'the CPU' : `${gpus} GPU${gpus === 1 ? '' : 's'}`;
  const parts = [
    `${cut.microBatch} × ${cut.accumulation} rows on ${where}`,
    ...(way === null ? [] : [precisionName(way)]),
    ...(way === null || way.gradientCheckpointing ? [] : ['no gradient checkpointing']),
    ...(way?.compiled ? ['compiled'] : []),
    ...(way?.liger ? ["Liger's kernels"] : []),
    ...(way === null || way.sharding === 'none' ? [] : [`DeepSpeed ${way.sharding}`]),
    `${steps} steps`,
    ...(hours === null ? [] : [`about ${describeHours(hours)}`]),
    ...(memory === null ? [] : [`${formatBytes(memory.total + contextBytes)} a GPU`]),
  ];
  return parts.join(', ');
}

/** As LLaMA-Factory's option is called. */
export function precisionName({ precision }: Way): string {
  return { bf16: 'bf16', fp16: 'fp16', 'fp16-from-bf16': 'fp16', none: 'no autocast' }[precision];
}

/** All of a plan for a terminal: each decision with its reason, what it is predicted to take, and advice. */
export function explainPlan(plan: TrainingPlan): string[] {
  const { decisions, prediction, advice } = plan;
  const width = Math.max(...decisions.map(({ option, value }) => `${option}: ${String(value)}`.length));
  return [
    `Plan: ${describePlan(plan)}`,
    '',
    ...decisions.map(({ option, value, by, reason }) => {
      const said = `${option}: ${String(value)}`.padEnd(width);
      return `  ${said}  ${by === 'config' ? 'config' : 'plan  '}  ${reason}`;
    }),
    '',
    ...predicted(plan, prediction),
    ...advice.map((sentence) => `Advice: ${sentence}.`),
  ];
}

function predicted(plan: TrainingPlan, prediction: TrainingPlan['prediction']): string[] {
  const { memory, secondsPerStep, steps, hours, cost, isCalibrated } = prediction;
  const basis = isCalibrated ? 'corrected by earlier trainings on this host' : 'by formula, no such training here yet';
  if (memory === null || secondsPerStep === null || hours === null)
    return [
      `Predicted: ${steps} steps; ${plan.gpus === 0 ? 'time on a CPU is not predicted' : 'memory is not known beforehand'}`,
    ];
  const percent = (memory.errorShare * 100).toFixed(0);
  return [
    `Memory: ${formatBytes(memory.total)} ± ${percent} % of ${formatBytes(memory.availableBytes)} that PyTorch can have on a GPU (${basis})`,
    `  weights ${formatBytes(memory.weights)}, gradients and optimizer ${formatBytes(memory.optimizer)}, ` +
      `activations ${formatBytes(memory.activations)}, logits ${formatBytes(memory.logits)}`,
    `Time: ${steps} steps of ${secondsPerStep.toPrecision(2)} s: about ${describeHours(hours)}${cost === null ? '' : `, cost ${cost.toFixed(2)}`}`,
  ];
}

function describeHours(hours: number): string {
  return hours < 1 ? `${Math.max(1, Math.round(hours * 60))} min` : `${hours.toPrecision(2)} h`;
}

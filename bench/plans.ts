import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { checkout } from '../host/checkout.ts';
import { formatBytes } from '../host/disk.ts';
import { messageOf } from '../host/errors.ts';
import { simulatedGpus } from '../host/planning/cards.ts';
import { contextBytes } from '../host/planning/memory.ts';
import { shapeOf, type ModelShape } from '../host/planning/model-shape.ts';
import { precisionName } from '../host/planning/plan-text.ts';
import { makePlan, type PlanFacts } from '../host/planning/plan.ts';
import { rowLengths } from '../host/planning/row-lengths.ts';

const cards = ['RTX 4090', 'V100', 'A100-SXM4-80GB'];
const counts = [1, 2, 4, 8];
const methods = ['lora', 'full'] as const;

/** The tables of docs/plans.md: what `temper plan` says for cards that are not here. `node dist/bench/plans.js` prints them. */
export function planTables(): string {
  const models = { 'Qwen3-VL-4B': shape('4b'), 'Qwen3-VL-8B': shape('8b') };
  return Object.entries(models)
    .flatMap(([name, model]) =>
      methods.map(
        (method) => `### ${name}, ${method === 'lora' ? 'LoRA (rank 8)' : 'full'}\n\n${planTable(model, method)}`,
      ),
    )
    .join('\n\n');
}

function planTable(model: ModelShape, method: (typeof methods)[number]): string {
  const rows = cards.flatMap((card) => counts.map((count) => planRow(card, count, model, method)));
  const head = [
    '| GPUs | used | rows at once × times | how | memory a GPU | s/step | hours |',
    '|---|---|---|---|---|---|---|',
  ];
  return [...head, ...rows].join('\n');
}

function planRow(card: string, count: number, model: ModelShape, method: (typeof methods)[number]): string {
  try {
    const { gpus, cut, way, prediction } = makePlan(factsFor(card, count, model, method));
    const how = [
      ...(way === null ? [] : [precisionName(way)]),
      way?.gradientCheckpointing ? 'checkpointing' : 'no checkpointing',
      ...(way?.compiled ? ['compiled'] : []),
      ...(way?.liger ? ['Liger'] : []),
      ...(way?.sharding === 'none' ? [] : [way?.sharding]),
    ];
    const memory = formatBytes((prediction.memory?.total ?? 0) + contextBytes);
    const [seconds, hours] = [prediction.secondsPerStep ?? 0, prediction.hours ?? 0];
    return `| ${count} × ${card} | ${gpus} | ${cut.microBatch} × ${cut.accumulation} | ${how.join(', ')} | ${memory} | ${seconds.toPrecision(2)} | ${hours.toPrecision(2)} |`;
  } catch (error) {
    return `| ${count} × ${card} | – | – | refused: ${messageOf(error).replace(/.*What would do: /, '')} | | | |`;
  }
}

/** 4,000 rows with a 512 × 512 picture each and answers of 10 to 200 tokens, global batch 16, 3 epochs. */
export function factsFor(card: string, count: number, shape: ModelShape, method: 'lora' | 'full'): PlanFacts {
  const answers = Array.from({ length: 191 }, (_, index) => index + 10);
  const lengths = answers.map((answer) => [300 + answer, 1, answer] as [number, number, number]);
  const total = answers.reduce((sum, answer) => sum + 300 + answer, 0);
  const figures = {
    ...{ mean: total / answers.length, max: 500, total, answers: total - 300 * answers.length },
    ...{ pictures: 256 * answers.length, shortestPrompt: 300, lengths },
  };
  return {
    ...simulatedGpus(card, count),
    shape,
    options: { finetuning_type: method, num_train_epochs: 3 },
    wishes: { globalBatchSize: 16 },
    rows: rowLengths(4000, figures, 2048),
    measurements: [],
    deepspeedConfigs: 'configs/deepspeed',
  };
}

function shape(size: '4b' | '8b'): ModelShape {
  const path = join(checkout, `test/fixtures/model-shapes/qwen3-vl-${size}.json`);
  return shapeOf(JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>, path);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) console.log(planTables());

import type { BatchCut } from '../batch-cut.ts';
import { formatBytes } from '../disk.ts';
import { durationText } from '../duration.ts';
import { cardOf } from '../planning/cards.ts';
import { whatItTook } from '../planning/measurements.ts';
import type { TrainingMethod } from '../planning/memory.ts';
import type { ModelShape } from '../planning/model-shape.ts';
import { predictStepSeconds } from '../planning/pace.ts';
import type { TrainingPlan } from '../planning/plan.ts';
import { describePlan } from '../planning/plan-text.ts';
import { paddedLength, type RowLengths } from '../planning/row-lengths.ts';
import type { RunDirectory } from '../run-directory.ts';
import { readJson } from '../state-file.ts';
import { usualStepSeconds, type TrainingEvent } from '../training-events.ts';
import { markup, table, type Content } from './markup.ts';
import type { Section } from './section.ts';

/** `plan` of `run.json`. */
type RecordedPlan = TrainingPlan & { shape: ModelShape; rows: RowLengths };

export const plan: Section = {
  id: 'plan',
  title: 'Plan and what it saved',
  make: async ({ run, events, goodput }) => {
    const recorded = (await readJson<{ plan?: RecordedPlan }>(run.run))?.plan;
    if (recorded === undefined) return undefined;
    const rows = recorded.decisions.map(({ option, value, by, reason }) => [
      markup`<code>${option}</code>`,
      typeof value === 'string' ? value : JSON.stringify(value),
      by,
      reason,
    ]);
    const saved = await saving(recorded, run);
    return {
      body: markup`<p>${describePlan(recorded)}. ${saved}</p>
${foretold(recorded, await events(), (await goodput())?.seconds.productive)}
${table(['option', 'value', 'by', 'why'], rows, { stacked: true })}
${recorded.advice.map((sentence) => markup`<p class="note">${sentence}.</p>`)}`,
    };
  },
};

/** The planned cut beside LLaMA-Factory's usual one of the same global batch, by the formula that made the plan. */
async function saving({ cut, globalBatch, gpus, way, shape, rows }: RecordedPlan, run: RunDirectory): Promise<string> {
  const usual = `1 × ${globalBatch / Math.max(1, gpus)}`;
  const planned = `${cut.microBatch} × ${cut.accumulation}`;
  const optimization = `The same optimization as LLaMA-Factory's usual ${usual} rows${gpus > 1 ? ' on each GPU' : ''}`;
  if (way === null)
    return `${optimization}, cut as ${planned}; time ${gpus === 0 ? 'on a CPU' : 'of a sharding of your own'} is not predicted, so neither is what that saves.`;
  const environment = await readJson<{ gpus?: { name: string }[] }>(run.environment);
  const card = cardOf(environment?.gpus?.[0]?.name ?? '');
  const secondsOf = (method: TrainingMethod, { microBatch, accumulation }: BatchCut) =>
    predictStepSeconds({
      ...method,
      ...{ microBatch, accumulation, shape, card, tokens: paddedLength(rows, microBatch) },
      ...{ pictureTokens: rows.meanPictureTokens, answerTokens: rows.meanAnswer },
    });
  const plain = { ...way, gradientCheckpointing: true, compiled: false, liger: false };
  const before = secondsOf(plain, { microBatch: 1, accumulation: globalBatch / way.gpus });
  const after = secondsOf(way, cut);
  const times = before / after;
  const gain = times < 1.05 ? 'which takes as long' : `which would take ${times.toPrecision(2)} times as long a step`;
  return `${optimization} with gradient checkpointing, ${gain} by the formula that both are predicted with.`;
}

/** What was predicted beside what was measured. */
function foretold({ prediction }: RecordedPlan, events: TrainingEvent[], productive: number | undefined): Content {
  const took = whatItTook(events);
  const pace = took?.secondsPerStep ?? usualStepSeconds(events);
  const { memory, secondsPerStep, hours, steps } = prediction;
  const made = events.reduce((most, event) => (event.type === 'step' ? Math.max(most, event.step) : most), 0);
  const rows: [string, string | null, string | null][] = [
    ['steps', String(steps), made === 0 ? null : String(made)],
    [
      'seconds a step, median',
      secondsPerStep === null ? null : secondsPerStep.toPrecision(3),
      pace?.toPrecision(3) ?? null,
    ],
    [
      'time in steps that count',
      hours === null ? null : durationText(hours * 3600),
      productive === undefined || productive === 0 ? null : durationText(productive),
    ],
    [
      'peak memory a GPU, reserved by PyTorch',
      memory === null ? null : `${formatBytes(memory.total)} ± ${(memory.errorShare * 100).toFixed(0)} %`,
      took === undefined ? null : formatBytes(took.reservedBytes),
    ],
  ];
  const known = rows.filter(([, predicted, measured]) => predicted !== null || measured !== null);
  const shown = known.map(([what, predicted, measured]) => [
    what,
    predicted ?? 'not predicted',
    measured ?? 'not measured',
  ]);
  return table(['what it takes', 'predicted', 'measured'], shown, { numeric: (column) => column > 0 });
}

import { join } from 'node:path';
import { formatBytes } from '../disk.ts';
import { readJson } from '../state-file.ts';
import { facts, grouped, markup, table, type Content } from './markup.ts';
import type { Section } from './section.ts';

/** Values of one tensor, or of all, as `trainer/merge/rounding.py` counts them. */
interface Counts {
  values?: number;
  overflow: number;
  underflow: number;
  subnormal: number;
  nonFinite: number;
  /** Where the adapter adds to the tensor: values that differ from the base's own. */
  changed?: number;
}

/** What is read of `merged/merge.json`, as `trainer/merge_adapter.py` writes it. */
interface MergeAudit extends Counts {
  dtype: string;
  tensors: number;
  merged: number;
  bytes: number;
  seconds: number;
  device: string;
  peakRssBytes: number;
  shards: { tensors: Record<string, Counts> }[];
}

/** `merged/fp16.json`, as `trainer/patch_fp16.py` writes it. */
interface Fp16Audit {
  gate?: { rows: number; nonFinite: unknown[]; differing: unknown[]; maxAbsLogitDifference: number } | null;
}

/** Tensors that stand in the report. */
const MOST_TENSORS = 10;

export const merge: Section = {
  id: 'merge',
  title: 'Merge audit',
  make: async ({ run }) => {
    const audit = await readJson<MergeAudit>(run.mergeAudit);
    if (audit === undefined) return undefined;
    const fp16 = await readJson<Fp16Audit>(join(run.merged, 'fp16.json'));
    const tensors = audit.shards.flatMap((shard) => Object.entries(shard.tensors));
    const values = tensors.reduce((sum, [, { values: count = 0 }]) => sum + count, 0);
    return {
      body: markup`${totals(audit, values)}${gate(fp16)}${largest(tensors)}${leastChanged(tensors)}
<p class="note">All ${tensors.length} tensors: <code>${run.mergeAudit}</code></p>`,
    };
  },
};

function totals(audit: MergeAudit, values: number): Content {
  const { dtype, tensors, merged, bytes, seconds, device, peakRssBytes } = audit;
  const of = (count: number) =>
    values > 0 ? `${grouped(count)} (${shareText(count / values)} of all values)` : grouped(count);
  return facts([
    ['Merged', `${merged} of ${tensors} tensors, rounded once to ${dtype}`],
    ['Written', `${formatBytes(bytes)} in ${seconds} s on ${device}, peak memory ${formatBytes(peakRssBytes)}`],
    ['Overflowed', grouped(audit.overflow)],
    ['No finite number', grouped(audit.nonFinite)],
    ['Rounded to zero', of(audit.underflow)],
    ['Subnormal', of(audit.subnormal)],
    ['Changed by the adapter', audit.changed === undefined ? null : of(audit.changed)],
  ]);
}

function gate(audit: Fp16Audit | undefined): Content {
  if (!audit?.gate) return null;
  const { rows, nonFinite, differing, maxAbsLogitDifference } = audit.gate;
  const told = `In fp16 ${rows} rows were answered as in fp32 but for ${differing.length}; ${nonFinite.length} gave no finite number; the logits lie at most ${maxAbsLogitDifference.toPrecision(2)} apart.`;
  return markup`<p>${told}</p>`;
}

/** Where rounding did most: what overflowed or is no number first, then the largest share that lost precision. */
function largest(tensors: [string, Counts][]): Content {
  const lost = ({ overflow, nonFinite }: Counts) => overflow + nonFinite;
  const fine = ({ underflow, subnormal, values = 1 }: Counts) => (underflow + subnormal) / Math.max(1, values);
  const found = tensors
    .filter(([, counts]) => lost(counts) + fine(counts) > 0)
    .sort(([, a], [, b]) => lost(b) - lost(a) || fine(b) - fine(a))
    .slice(0, MOST_TENSORS);
  const rows = found.map(([name, counts]) => [
    markup`<code>${name}</code>`,
    ...[counts.overflow, counts.nonFinite, counts.underflow, counts.subnormal].map(grouped),
    shareText(fine(counts)),
  ]);
  const head = ['tensor', 'overflowed', 'no number', 'to zero', 'subnormal', 'share'];
  return rows.length === 0
    ? null
    : markup`<h3>Where rounding did most</h3>${table(head, rows, { numeric: (column) => column > 0 })}`;
}

/** Where the adapter's change was lost in rounding: values that came out as the base's own. */
function leastChanged(tensors: [string, Counts][]): Content {
  const share = ({ changed = 0, values = 1 }: Counts) => changed / Math.max(1, values);
  const found = tensors
    .filter(([, { changed }]) => changed !== undefined)
    .sort(([, a], [, b]) => share(a) - share(b))
    .slice(0, MOST_TENSORS);
  const rows = found.map(([name, counts]) => [
    markup`<code>${name}</code>`,
    grouped(counts.changed ?? 0),
    grouped(counts.values ?? 0),
    shareText(share(counts)),
  ]);
  return rows.length === 0
    ? null
    : markup`<h3>Where the adapter changed least</h3>${table(['tensor', 'changed', 'values', 'share'], rows, { numeric: (column) => column > 0 })}`;
}

function shareText(share: number): string {
  const percent = share * 100;
  return percent === 0 ? '0 %' : percent < 0.1 ? `${percent.toPrecision(1)} %` : `${percent.toFixed(1)} %`;
}

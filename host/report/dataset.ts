import { readJson } from '../state-file.ts';
import { facts, grouped, markup, table, type Content } from './markup.ts';
import type { Section } from './section.ts';

/** What is read of `dataset/report.json`, as `trainer/dataset/judge.py` writes it; older ones lack some of it. */
interface DatasetReport {
  rows?: number;
  trainRows?: number;
  heldOutRows?: number;
  evalRows?: number;
  kept?: number;
  problemKinds?: { code: string; severity: string; count: number }[];
  problems?: { message: string }[];
  tokens?: Tokens | null;
  pictures?: Pictures | null;
}

interface Tokens {
  min: number;
  median: number;
  p95: number;
  max: number;
  total: number;
  cutoffLen: number;
  cutRows: number;
  histogram: { from: number; to: number; rows: number }[];
}

interface Pictures {
  count: number;
  distinct: number;
  widths: [number, number];
  heights: [number, number];
  medianPixels: number;
  /** [width, height, pictures]; near sizes share a line where there are many. */
  sizes?: [number, number, number][];
}

/** Pixels that LLaMA-Factory scales larger pictures down to unless `image_max_pixels` says otherwise. */
const MAX_PIXELS = 768 * 768;

const COMMON_SIZES = 5;

export const dataset: Section = {
  id: 'dataset',
  title: 'Rows, tokens and pictures',
  make: async ({ run }) => {
    const report = await readJson<DatasetReport>(run.datasetReport);
    if (report === undefined) return undefined;
    const options = (await readJson<{ config?: { train?: { image_max_pixels?: number } } }>(run.run))?.config?.train;
    const maxPixels = options?.image_max_pixels ?? MAX_PIXELS;
    const { tokens, pictures } = report;
    const sizes = pictures?.sizes ?? [];
    return {
      body: markup`${rowFacts(report)}${problemTable(report)}${tokens ? tokenPart(tokens) : null}${pictures ? picturePart(pictures, maxPixels) : null}`,
      charts: {
        ...(tokens
          ? {
              tokens: {
                kind: 'histogram',
                what: 'tokens a row',
                bars: tokens.histogram.map(({ from, to, rows }) => ({
                  label: from === to ? String(from) : `${from}–${to}`,
                  rows,
                })),
              },
            }
          : {}),
        ...(sizes.length > 1 ? { sizes: { kind: 'sizes', sizes, maxPixels } } : {}),
      },
    };
  },
};

function rowFacts({ rows, kept, trainRows, heldOutRows, evalRows }: DatasetReport): Content {
  const dropped = rows !== undefined && kept !== undefined && rows > kept ? rows - kept : null;
  return facts([
    ['Rows to train on', counted(trainRows)],
    ['Held out', counted(heldOutRows)],
    ['To evaluate on', evalRows === 0 ? null : counted(evalRows)],
    ['Dropped', counted(dropped)],
  ]);
}

function counted(rows: number | null | undefined): string | null {
  return rows == null ? null : grouped(rows);
}

function problemTable({ problemKinds = [] }: DatasetReport): Content {
  const rows = problemKinds.map(({ code, severity, count }) => [code, severity, count]);
  return rows.length === 0
    ? null
    : table(['problems', 'severity', 'count'], rows, { numeric: (column) => column === 2 });
}

function tokenPart({ min, median, p95, max, total, cutoffLen, cutRows }: Tokens): Content {
  const cut =
    cutRows === 0 ? 'no row is cut' : `${grouped(cutRows)} ${cutRows === 1 ? 'row is' : 'rows are'} longer and cut`;
  const said = `A row has ${min} to ${max} tokens, ${median} in the middle, and 95 % have at most ${p95}; all have ${grouped(total)}. cutoff_len is ${cutoffLen}: ${cut}.`;
  return markup`<h3>Tokens</h3>
<p>${said}</p>
<div class="chart" id="tokens" role="img" aria-label="${`Rows by their tokens. ${said}`}"></div>
`;
}

function picturePart({ count, distinct, widths, heights, medianPixels, sizes = [] }: Pictures, max: number): Content {
  const range = ([low, high]: [number, number]) => (low === high ? String(low) : `${low} to ${high}`);
  const larger = sizes.reduce((sum, [width, height, many]) => (width * height > max ? sum + many : sum), 0);
  const scaled =
    sizes.length === 0
      ? ''
      : ` ${larger === 0 ? 'None' : grouped(larger)} of them ${larger > 1 ? 'have' : 'has'} more than the ${grouped(max)} pixels of image_max_pixels${larger > 0 ? ' and will be scaled down' : ''}.`;
  const said = `${grouped(count)} pictures, ${grouped(distinct)} of them distinct, ${range(widths)} pixels wide and ${range(heights)} high; the middle one has ${grouped(medianPixels)} pixels.${scaled}`;
  const common = [...sizes].sort((a, b) => b[2] - a[2]).slice(0, COMMON_SIZES);
  const chart = markup`<div class="chart" id="sizes" role="img" aria-label="${`Pictures by width and height. ${said}`}"></div>
${table(
  ['most frequent sizes', 'pictures'],
  common.map(([width, height, many]) => [`${width} × ${height}`, grouped(many)]),
  { numeric: (column) => column === 1 },
)}`;
  return markup`<h3>Pictures</h3>
<p>${said}</p>
${sizes.length > 1 ? chart : null}`;
}

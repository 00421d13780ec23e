/** How a candidate does against a champion on the same rows; differences are candidate − champion. */
export interface PairedBootstrap {
  meanDifference: number;
  /** Ends of the 95 % percentile interval of the mean difference. */
  low: number;
  high: number;
  resamples: number;
  rows: number;
  /** Rows on which the candidate scores higher, lower, and the same. */
  wins: number;
  losses: number;
  ties: number;
}

const RESAMPLES = 10_000;
const TAIL = 0.025;

/** Fewer rows that differ can't tell at 95 %: six alike have a chance of 2 · 2⁻⁶ = 3 % (two-sided sign test), five of 6 %. */
const MIN_DIFFERENT_ROWS = 6;

/**
 * Paired bootstrap (Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation"; percentile interval by
 * Efron 1979): the rows' differences are drawn with replacement as often as there are rows, `resamples` times over. The same
 * scores give the same interval. Both lists are row scores in the same order; null for no rows.
 */
export function pairedBootstrap(
  candidate: readonly number[],
  champion: readonly number[],
  { resamples = RESAMPLES, seed = 1 }: { resamples?: number; seed?: number } = {},
): PairedBootstrap | null {
  const rows = candidate.length;
  if (champion.length !== rows)
    throw new RangeError(`${rows} scores of the candidate can't be paired with ${champion.length} of the champion`);
  if (rows === 0) return null;
  const differences = Float64Array.from(candidate, (score, index) => score - (champion[index] as number));
  const means = resampledMeans(differences, resamples, mulberry32(seed)).sort();
  const cut = Math.floor(TAIL * resamples);
  const count = (isCounted: (difference: number) => boolean) => differences.filter(isCounted).length;
  return {
    meanDifference: differences.reduce((sum, difference) => sum + difference, 0) / rows,
    low: means[cut] as number,
    high: means[resamples - 1 - cut] as number,
    resamples,
    rows,
    wins: count((difference) => difference > 0),
    losses: count((difference) => difference < 0),
    ties: count((difference) => difference === 0),
  };
}

/** Whether chance alone is an unlikely cause of the difference: zero lies outside the interval, and enough rows differ. */
export function isDistinguishable({ low, high, wins, losses }: PairedBootstrap): boolean {
  return (low > 0 || high < 0) && wins + losses >= MIN_DIFFERENT_ROWS;
}

/** The interval in words, such as `95 % interval -0.0350 to 0.0100, not distinguishable from none`. */
export function describeInterval(comparison: PairedBootstrap): string {
  const { low, high } = comparison;
  const verdict = isDistinguishable(comparison) ? 'distinguishable' : 'not distinguishable';
  return `95 % interval ${low.toFixed(4)} to ${high.toFixed(4)}, ${verdict} from none`;
}

function resampledMeans(values: Float64Array, resamples: number, random: () => number): Float64Array {
  const { length } = values;
  const means = new Float64Array(resamples);
  for (let resample = 0; resample < resamples; resample++) {
    let sum = 0;
    for (let draw = 0; draw < length; draw++) sum += values[(random() * length) >>> 0] as number;
    means[resample] = sum / length;
  }
  return means;
}

/** A local, for it is called 10⁸ times, and in a sandbox (Jest's) looking up a global takes longer than the rest of a draw. */
const { imul } = Math;

/** Tommy Ettinger's mulberry32 (2017, public domain): numbers from 0 to below 1, the same for the same seed; period 2³². */
function mulberry32(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

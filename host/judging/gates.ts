import type { Config } from '../../configs/schema.ts';
import { describeInterval, type PairedBootstrap } from './paired-bootstrap.ts';
import { metricNames, type Score } from './scoring.ts';

/** `evaluate.gates`: what a candidate has to keep to before it may replace the champion. */
export type Gates = Config['evaluate']['gates'];

/** A candidate's figures and the memory it took while served; null when that could not be measured. */
export type JudgedCandidate = Score & { memoryBytes: number | null };

export interface GateCheck {
  gate: keyof Gates;
  /** In the limit's unit; for maxRegression the drop, negative for a gain. Null when the gate could not be judged. */
  found: number | null;
  limit: number;
  passed: boolean;
  sentence: string;
}

export interface Verdict {
  /** Whether every gate was. */
  passed: boolean;
  checks: GateCheck[];
  headline: string;
}

const GIB = 2 ** 30;

/** Differences of binary fractions: 0.98 − 0.96 is 0.020000000000000018. */
const TOLERANCE = 1e-9;

/**
 * Judge a candidate by the gates that are set. One that can't be judged is not passed, but for maxRegression without a
 * champion that answers (`championProblem` says why one doesn't). A drop is judged by the mean difference alone; whether chance
 * may explain it is said beside it.
 */
export function judge(
  gates: Gates,
  candidate: JudgedCandidate,
  champion: Score | null,
  comparison: PairedBootstrap | null,
  championProblem: string | null = null,
): Verdict {
  const checks: GateCheck[] = [];
  if (gates.minScore !== undefined) checks.push(checkScore(gates.minScore, candidate));
  checks.push(checkRegression(gates.maxRegression, champion, comparison, championProblem));
  if (gates.maxLatencyP95Ms !== undefined) checks.push(checkLatency(gates.maxLatencyP95Ms, candidate));
  if (gates.maxMemoryGiB !== undefined) checks.push(checkMemory(gates.maxMemoryGiB, candidate));
  const failed = checks.filter(({ passed }) => !passed);
  const headline =
    failed.length === 0
      ? `passed ${checks.map(({ gate }) => gate).join(', ')}`
      : `failed ${failed.map(({ gate, sentence }) => `${gate}: ${sentence}`).join('; ')}`;
  return { passed: failed.length === 0, checks, headline };
}

function checkScore(limit: number, { rows, score, metric }: Score): GateCheck {
  if (rows === 0) return unjudged('minScore', limit, 'no rows were held out to score it on');
  const passed = isAtMost(limit, score);
  const found = `its ${metricNames[metric]} is ${decimals(score)} on ${rows} held-out rows`;
  const sentence = `${found}, ${passed ? 'at least' : 'below'} the ${decimals(limit)} that is wanted`;
  return { gate: 'minScore', found: score, limit, passed, sentence };
}

function checkRegression(
  limit: number,
  champion: Score | null,
  comparison: PairedBootstrap | null,
  problem: string | null,
): GateCheck {
  const gate = 'maxRegression';
  if (champion === null) {
    const sentence = problem === null ? 'no champion to compare with' : `the champion answers no more: ${problem}`;
    return { gate, found: null, limit, passed: true, sentence };
  }
  if (comparison === null) return unjudged(gate, limit, 'there are no rows that both it and the champion answered');
  const { meanDifference, rows } = comparison;
  const drop = 0 - meanDifference; // not -0 for no difference
  const side = drop > 0 ? `${decimals(drop)} below` : `${decimals(meanDifference)} above`;
  const sentence =
    `its mean score is ${meanDifference === 0 ? 'the same as' : side} the champion's on the same ${rows} rows ` +
    `(${describeInterval(comparison)}); at most ${decimals(limit)} below is allowed`;
  return { gate, found: drop, limit, passed: isAtMost(drop, limit), sentence };
}

function checkLatency(limit: number, { latencyP95Ms: found }: Score): GateCheck {
  const gate = 'maxLatencyP95Ms';
  if (found === null) return unjudged(gate, limit, 'no rows were held out to time it on');
  const sentence = `95 % of its answers came within ${decimals(found)} ms; at most ${decimals(limit)} ms is allowed`;
  return { gate, found, limit, passed: isAtMost(found, limit), sentence };
}

function checkMemory(limit: number, { memoryBytes }: JudgedCandidate): GateCheck {
  const gate = 'maxMemoryGiB';
  if (memoryBytes === null) return unjudged(gate, limit, 'the memory it takes could not be measured');
  const found = memoryBytes / GIB;
  const sentence = `it takes ${decimals(found)} GiB of memory; at most ${decimals(limit)} GiB is allowed`;
  return { gate, found, limit, passed: isAtMost(found, limit), sentence };
}

function unjudged(gate: GateCheck['gate'], limit: number, why: string): GateCheck {
  return { gate, found: null, limit, passed: false, sentence: `it can't be judged: ${why}` };
}

function isAtMost(value: number, limit: number): boolean {
  return value <= limit + TOLERANCE;
}

/** At most four decimals, no zeros at the end. */
function decimals(value: number): string {
  return String(Number(value.toFixed(4)));
}

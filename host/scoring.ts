/** An answer as it is compared: surrounding space dropped, Unicode in its composed form (NFC). */
function normalize(answer: string): string {
  return answer.trim().normalize('NFC');
}

/** Whether an answer is right: the same as the expected one, or (`contains`) with the expected one in it. */
export function matches(answer: string, expected: string, metric: 'exact' | 'contains'): boolean {
  return metric === 'exact'
    ? normalize(answer) === normalize(expected)
    : normalize(answer).includes(normalize(expected));
}

/**
 * Normalized edit similarity from 0 to 1: 1 − Levenshtein distance / length of the longer one, in code points; what ANLS
 * (Biten et al., 2019, "Scene Text Visual Question Answering") averages, without its threshold.
 */
export function similarity(answer: string, expected: string): number {
  const a = [...normalize(answer)];
  const b = [...normalize(expected)];
  const longer = Math.max(a.length, b.length);
  return longer === 0 ? 1 : 1 - editDistance(a, b) / longer;
}

/** The value below which the given share of the values lies (nearest rank); null for none. */
export function percentile(values: number[], share: number): number | null {
  const sorted = [...values].sort((x, y) => x - y);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? null;
}

function editDistance(a: string[], b: string[]): number {
  let row = b.map((_, index) => index + 1);
  a.forEach((inA, i) => {
    let diagonal = i;
    let left = i + 1;
    row = row.map((above, j) => {
      left = Math.min(left + 1, above + 1, diagonal + (inA === b[j] ? 0 : 1));
      diagonal = above;
      return left;
    });
  });
  return row.at(-1) ?? a.length;
}

/** What `dataset/report.json` says about tokens, as `trainer/dataset/report.py` writes it. */
export interface TokenFigures {
  mean: number;
  max: number;
  /** Sum over all rows. */
  total: number;
  answers: number;
  pictures: number;
  shortestPrompt: number;
  /** [tokens, rows, longest answer], from the shortest row up. */
  lengths: [number, number, number][];
}

/** How long the rows are that one pass over the data reads. */
export interface RowLengths {
  rows: number;
  /** Tokens of the longest row; a micro-batch that holds it is padded to it. */
  longest: number;
  /** At most so many positions of a row predict an answer's token, over a whole micro-batch. */
  answerSpan: number;
  meanPictureTokens: number;
  /** What the longest row's pictures have at most. */
  mostPictureTokens: number;
  meanAnswer: number;
  lengths: readonly (readonly [tokens: number, rows: number])[];
}

/** Rows by their exact token counts; without counts every row is taken to be `cutoffLen` long. */
export function rowLengths(trainRows: number, figures: TokenFigures | null, cutoffLen: number): RowLengths {
  if (figures === null || figures.lengths.length === 0) {
    return {
      rows: trainRows,
      longest: cutoffLen,
      answerSpan: cutoffLen,
      meanPictureTokens: 0,
      mostPictureTokens: cutoffLen,
      meanAnswer: cutoffLen,
      lengths: [[cutoffLen, trainRows]],
    };
  }
  const counted = figures.lengths.reduce((sum, [, rows]) => sum + rows, 0);
  const longest = Math.min(figures.max, cutoffLen);
  return {
    rows: trainRows,
    longest,
    answerSpan: Math.max(1, Math.min(longest, figures.max - figures.shortestPrompt)),
    meanPictureTokens: figures.pictures / counted,
    mostPictureTokens: Math.min(longest, (figures.pictures / counted) * (longest / figures.mean)),
    meanAnswer: figures.answers / counted,
    lengths: figures.lengths.map(([tokens, rows]) => [Math.min(tokens, cutoffLen), rows] as const),
  };
}

/** Tokens that a row of a micro-batch has once it is padded to the longest: the mean of the longest of `rows` random rows. */
export function paddedLength({ lengths }: RowLengths, rows: number): number {
  const all = lengths.reduce((sum, [, count]) => sum + count, 0);
  let [mean, below] = [0, 0];
  for (const [tokens, count] of lengths) {
    const upTo = below + count;
    mean += tokens * ((upTo / all) ** rows - (below / all) ** rows);
    below = upTo;
  }
  return mean;
}

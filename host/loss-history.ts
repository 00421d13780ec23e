/** The losses of a training by step, without those that a resume has dropped. */
export class LossHistory {
  readonly #losses: (number | null)[] = [];

  add(step: number, loss: number | null): void {
    this.#losses[step] = loss;
  }

  /** Steps after this one are about to be made again. */
  resumeAfter(step: number): void {
    this.#losses.length = Math.min(this.#losses.length, step + 1);
  }

  /** At most `count` means over stretches of equal length, oldest first. */
  means(count: number): number[] {
    const known = this.#losses.filter((loss) => typeof loss === 'number' && Number.isFinite(loss)) as number[];
    const stretch = Math.max(1, known.length / count);
    const starts = Array.from({ length: Math.min(count, known.length) }, (_, index) => Math.floor(index * stretch));
    return starts.map((start, index) => mean(known.slice(start, starts[index + 1] ?? known.length)));
  }
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

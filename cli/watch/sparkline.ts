const LEVELS = '▁▂▃▄▅▆▇█';

/** Values as a line of at most `width` characters, each the mean of a stretch, from their least to their greatest. */
export function sparkline(values: readonly number[], width: number): string {
  const finite = values.filter(Number.isFinite);
  const count = Math.min(width, finite.length);
  const means = Array.from({ length: count }, (_, index) => {
    const stretch = finite.slice(
      Math.floor((index * finite.length) / count),
      Math.floor(((index + 1) * finite.length) / count),
    );
    return stretch.reduce((sum, value) => sum + value, 0) / stretch.length;
  });
  const least = Math.min(...means);
  const range = Math.max(...means) - least;
  return means
    .map((value) => LEVELS[range === 0 ? 0 : Math.round(((value - least) / range) * (LEVELS.length - 1))])
    .join('');
}

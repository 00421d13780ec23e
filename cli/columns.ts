import stringWidth from 'string-width';

/** Lines of a table; without `isRight` all columns but the first are flush right. */
export function columns(rows: string[][], isRight: (column: number) => boolean = (column) => column > 0): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => stringWidth(row[column] ?? ''))));
  const line = (row: string[]) =>
    row.map((cell, column) => {
      const space = ' '.repeat(Math.max(0, (widths[column] ?? 0) - stringWidth(cell)));
      return isRight(column) ? space + cell : cell + space;
    });
  return rows.map((row) => line(row).join('  ').trimEnd());
}

import { formatBytes } from '../host/disk.ts';
import type { PythonProgress } from '../host/python.ts';

const WIDTH = 30;

/** Shows progress as one bar that is drawn again in a terminal, as a line every tenth elsewhere; both on stderr. */
export function progressLine(what: string): (progress: PythonProgress) => void {
  let lastTenth = -1;
  return ({ done, total, unit }) => {
    const share = total === 0 ? 1 : done / total;
    const amount = unit === 'bytes' ? `${formatBytes(done)} of ${formatBytes(total)}` : `${done} of ${total} ${unit}`;
    if (process.stderr.isTTY) {
      const filled = Math.round(share * WIDTH);
      const end = share >= 1 ? '\n' : '';
      process.stderr.write(`\r${what} [${'='.repeat(filled)}${' '.repeat(WIDTH - filled)}] ${amount} ${end}`);
    } else if (Math.floor(share * 10) > lastTenth) {
      lastTenth = Math.floor(share * 10);
      process.stderr.write(`${what} ${amount}\n`);
    }
  };
}

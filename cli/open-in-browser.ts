import { pathToFileURL } from 'node:url';
import { TemperError } from '../host/errors.ts';
import { handOver } from '../host/subprocess.ts';

/** An opener that finds no browser says so at once; one that is still there has begun to show the page. */
const PATIENCE_MS = 5_000;

/** Show a file in the browser that the user has chosen; HostError, which says where the page is, when there is none. */
export async function openInBrowser(path: string): Promise<void> {
  const program = process.platform === 'darwin' ? 'open' : 'xdg-open';
  const url = pathToFileURL(path).href;
  const { exitCode, problem } = await handOver(program, [url], PATIENCE_MS);
  if (exitCode === undefined || exitCode === 0) return;
  throw new TemperError(
    'HostError',
    `No browser could be started here (${problem ?? `${program} ended with exit code ${exitCode}`}). The report is written: open ${url}, or copy the file to where a browser is; it needs no other.`,
  );
}

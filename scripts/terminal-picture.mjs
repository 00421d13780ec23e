#!/usr/bin/env node
// Takes docs/images/watch.png: `temper watch` of a training that is under way, as a terminal shows it.
//   TEMPER_HOME=… node scripts/terminal-picture.mjs RUN_NAME
// Needs tmux, and chromium on the PATH.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const root = fileURLToPath(new URL('..', import.meta.url));
const [runName] = process.argv.slice(2);
if (runName === undefined) {
  console.error('Usage: node scripts/terminal-picture.mjs RUN_NAME (of a run that trains)');
  process.exit(2);
}
const colors = { 31: '#e06c75', 32: '#98c379', 33: '#e5c07b', 36: '#56b6c2' };

const session = `picture-${process.pid}`;
const command = `${process.execPath} ${join(root, 'cli/temper.mjs')} watch ${runName}; sleep 60`;
execFileSync('tmux', ['new-session', '-d', '-s', session, '-x', '92', '-y', '20', command]);
await sleep(6_000);
const text = execFileSync('tmux', ['capture-pane', '-e', '-p', '-t', session], { encoding: 'utf8' }).trimEnd();
execFileSync('tmux', ['kill-session', '-t', session]);

const browser = await chromium.launch({
  executablePath: execFileSync('which', ['chromium'], { encoding: 'utf8' }).trim(),
  args: ['--no-sandbox', '--disable-gpu'],
});
try {
  const page = await browser.newPage({ viewport: { width: 900, height: 460 }, deviceScaleFactor: 2 });
  await page.setContent(
    `<pre style="display:inline-block;margin:0;padding:18px 22px;border-radius:8px;background:#1e2127;color:#d7dae0;font:14px/1.35 'DejaVu Sans Mono',monospace">${htmlOf(text)}</pre>`,
  );
  await page.locator('pre').screenshot({ path: join(root, 'docs/images/watch.png'), omitBackground: true });
} finally {
  await browser.close();
}

/** A terminal's text with its colors (SGR 31 to 36, bold, dim) as HTML. */
function htmlOf(ansi) {
  const escaped = ansi.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  let open = 0;
  // eslint-disable-next-line no-control-regex
  const html = escaped.replaceAll(/\x1b\[([\d;]*)m/g, (_, codes) => {
    const styles = codes.split(';').flatMap((code) => {
      if (colors[code] !== undefined) return [`color:${colors[code]}`];
      return code === '1' ? ['font-weight:bold'] : code === '2' ? ['opacity:.55'] : [];
    });
    const close = '</span>'.repeat(open);
    open = styles.length > 0 ? 1 : 0;
    return close + (open === 1 ? `<span style="${styles.join(';')}">` : '');
  });
  return html + '</span>'.repeat(open);
}

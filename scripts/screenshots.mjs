#!/usr/bin/env node
// Takes the README's pictures in a real Chromium, from what `npm run demo -- --keep` left up:
//   node scripts/screenshots.mjs RUN_NAME
// Needs chromium on the PATH and, for Chinese, a CJK font (Debian: chromium fonts-wqy-zenhei).
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const root = fileURLToPath(new URL('..', import.meta.url));
const home = process.env.TEMPER_HOME ?? join(root, '.temper');
const images = join(root, 'docs/images');
const [runName] = process.argv.slice(2);
if (runName === undefined) {
  console.error('Usage: node scripts/screenshots.mjs RUN_NAME (the run that `npm run demo -- --keep` printed)');
  process.exit(2);
}

const { uiUrl } = JSON.parse(readFileSync(join(home, 'up.json'), 'utf8'));
const { pageUrl } = JSON.parse(readFileSync(join(home, 'runs', runName, 'deployment.json'), 'utf8'));
const { rows } = JSON.parse(readFileSync(join(home, 'runs', runName, 'evaluation.json'), 'utf8'));
const learned = rows.find((row) => row.base !== row.expected && row.candidate === row.expected) ?? rows[0];

const executablePath = execFileSync('which', ['chromium'], { encoding: 'utf8' }).trim();
const browser = await chromium.launch({
  executablePath,
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});
try {
  await shoot('temporal-ui.png', { width: 1360, height: 1340 }, async (page) => {
    await page.goto(`${uiUrl}/namespaces/default/workflows/${runName}`);
    await page.getByText('trainModel').first().waitFor({ timeout: 30_000 });
    await page.waitForTimeout(3000);
  });
  await shoot('chat-page.png', { width: 1000, height: 860 }, async (page) => {
    await page.goto(pageUrl);
    await page.locator('input[type=file]').first().setInputFiles(learned.images[0]);
    await page.locator('textarea').first().fill(learned.question.replaceAll('<image>', ''));
    await page.waitForTimeout(1500);
    await page.locator('textarea').first().press('Enter');
    await page.getByText(learned.expected).first().waitFor({ timeout: 120_000 });
    await page.waitForTimeout(1000);
  });
  await shoot('report.png', { width: 1000, height: 900 }, (page) =>
    page.goto(`file://${join(home, 'runs', runName, 'report.html')}`),
  );
} finally {
  await browser.close();
}

async function shoot(name, viewport, prepare) {
  const page = await browser.newPage({ viewport });
  await prepare(page);
  await page.screenshot({ path: join(images, name) });
  await page.close();
  console.log(join(images, name));
}

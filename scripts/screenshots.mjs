#!/usr/bin/env node
// Takes the docs' pictures in a real Chromium. The README's, from what `npm run demo -- --keep` left up:
//   node scripts/screenshots.mjs RUN_NAME
// Those of reports, from the directories of the runs that docs/report.md makes:
//   node scripts/screenshots.mjs --reports KILLED_RUN REJECTED_RUN
// Needs chromium on the PATH and, for Chinese, a CJK font (Debian: chromium fonts-wqy-zenhei).
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const root = fileURLToPath(new URL('..', import.meta.url));
const home = process.env.TEMPER_HOME ?? join(root, '.temper');
const images = join(root, 'docs/images');
const phone = { width: 390, height: 844 };
const [first, ...reported] = process.argv.slice(2);
if (first === undefined || (first === '--reports' && reported.length !== 2)) {
  console.error('Usage: node scripts/screenshots.mjs RUN_NAME (the run that `npm run demo -- --keep` printed)');
  console.error('       node scripts/screenshots.mjs --reports KILLED_RUN REJECTED_RUN');
  process.exit(2);
}

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
  if (first === '--reports') await shootReports(...reported);
  else await shootDemo(first);
} finally {
  await browser.close();
}

async function shootDemo(runName) {
  const { uiUrl } = JSON.parse(readFileSync(join(home, 'up.json'), 'utf8'));
  const { pageUrl } = JSON.parse(readFileSync(join(home, 'runs', runName, 'deployment.json'), 'utf8'));
  const { rows } = JSON.parse(readFileSync(join(home, 'runs', runName, 'evaluation.json'), 'utf8'));
  const learned = rows.find((row) => row.base !== row.expected && row.candidate === row.expected) ?? rows[0];
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
}

async function shootReports(killed, rejected) {
  await shoot('report.png', { width: 1000, height: 1640 }, async (page) => {
    await openReport(page, killed);
    await page.locator('button[data-does=log]').click();
  });
  await shoot('report-rejected.png', { width: 1000, height: 1000 }, async (page) => {
    await openReport(page, rejected);
    await scrollTo(page, '#evaluation');
  });
  await shoot('report-killed-phone.png', phone, async (page) => {
    await openReport(page, killed);
    await scrollTo(page, '#curves');
  });
  await shoot('report-rejected-phone.png', phone, async (page) => {
    await openReport(page, rejected);
    await page.locator('button[data-filter=lost]').click();
    await scrollTo(page, '#evaluation h3');
  });
}

async function openReport(page, runName) {
  await page.goto(`file://${join(home, 'runs', runName, 'report.html')}`);
  await page.locator('#training svg').waitFor();
}

async function scrollTo(page, selector) {
  await page.locator(selector).evaluate((element) => element.scrollIntoView());
}

async function shoot(name, viewport, prepare) {
  const isPhone = viewport.width < 500;
  const page = await browser.newPage({ viewport, isMobile: isPhone, hasTouch: isPhone });
  await prepare(page);
  await page.screenshot({ path: join(images, name) });
  await page.close();
  console.log(join(images, name));
}

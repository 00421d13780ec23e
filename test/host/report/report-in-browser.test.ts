/** Opens reports in a real Chromium, at the width of a desktop and of a phone; skipped where there is none on the PATH. */
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { writeReport } from '../../../host/report/render-report.ts';
import { newFolder } from '../../fixtures/trainers/stand-in.ts';
import { chromiumPath, launchChromium } from '../../support/chromium.ts';
import {
  beginRun,
  endRun,
  leaveDataset,
  leaveEvaluation,
  leaveEvents,
  leaveMerge,
  leavePlan,
  picture,
  resumedTraining,
  stage,
} from '../../support/reported-run.ts';

jest.setTimeout(120_000);

const desktop: BrowserContextOptions = { viewport: { width: 1280, height: 900 } };
const phone: BrowserContextOptions = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

const inChromium = chromiumPath === '' ? describe.skip : describe;

let browser: Browser;
let report: string;
let failed: string;
/** What pages asked for, or complained of. */
const noise: string[] = [];

beforeAll(async () => {
  if (chromiumPath === '') return;
  const home = newFolder();
  const run = await beginRun(home);
  await leavePlan(run, 'H100');
  await leaveDataset(run);
  await leaveMerge(run, 30);
  const long = 'https://example.org/'.padEnd(300, 'x');
  await leaveEvaluation(run, [
    { expected: long, candidate: long, champion: 'B', images: [picture, '/gone.png'] },
    { expected: '</script><b>B', candidate: 'x', champion: '</script><b>B' },
    { expected: 'C', candidate: 'x', champion: 'y' },
  ]);
  const training = resumedTraining(300, 120);
  leaveEvents(run, [
    ...training.slice(0, 40),
    { type: 'step', step: 30, loss: null, time: 1_040 },
    ...training.slice(40),
  ]);
  await endRun(run, 'rejected', [stage({}), stage({ stage: 'deployModel', state: 'skipped', headline: long })]);
  await writeReport(run);
  report = pathToFileURL(run.report).href;

  const other = await beginRun(home, 'failed');
  await endRun(other, 'failed', [stage({ state: 'failed', headline: 'no disk\nnone' })]);
  await writeReport(other);
  failed = pathToFileURL(other.report).href;
  browser = await launchChromium();
});

afterAll(() => browser?.close());

inChromium('a report in Chromium', () => {
  describe.each([
    ['desktop', desktop],
    ['phone', phone],
    ['phone, dark', { ...phone, colorScheme: 'dark' as const }],
    ['phone without scripts', { ...phone, javaScriptEnabled: false }],
  ])('%s', (name, options) => {
    test.each([['rejected'], ['failed']])('%s: it fits the width and asks and complains of nothing', async (which) => {
      const page = await open(options, which === 'failed' ? failed : report);
      const [content, width] = await page.evaluate<[number, number]>(
        '[document.documentElement.scrollWidth, innerWidth]',
      );
      expect(content).toBe(width);
      const isDrawn = which === 'rejected' && !name.includes('scripts');
      expect((await page.locator('.chart svg path').count()) > 20).toBe(isDrawn);
      expect((await page.locator('button:visible').count()) > 0).toBe(isDrawn);
      expect(await page.locator('tr[data-change]:visible').count()).toBe(which === 'rejected' ? 3 : 0);
      expect(noise).toEqual([]);
      await page.context().close();
    });
  });

  test('all charts are drawn, each line with its name', async () => {
    const page = await open(desktop, report);
    for (const id of ['training', 'tokens', 'sizes']) expect(await page.locator(`#${id} svg`).count()).toBe(1);
    const words = await page.locator('#training svg').textContent();
    for (const name of ['loss', 'smoothed', 'evaluation', 'thrown away', 'checkpoint', 'learning rate', 'resume'])
      expect(words).toContain(name);
    await page.context().close();
  });

  test('a mouse zooms by dragging and by Ctrl and the wheel, buttons by the keyboard; the wheel alone scrolls', async () => {
    const page = await open(desktop, report);
    const chart = await boxOf(page);
    const [left, middle] = [chart.x + chart.width * 0.4, chart.y + chart.height * 0.4];
    await page.mouse.move(left, middle);
    await page.mouse.wheel(0, 300);
    await page.waitForTimeout(200);
    expect(await seen(page)).toEqual([0, 100]);
    expect(await page.evaluate('scrollY')).toBeGreaterThan(0);

    const { x, y, width, height } = await boxOf(page);
    await page.mouse.move(x + width * 0.4, y + height * 0.4);
    await page.mouse.down();
    await page.mouse.move(x + width * 0.6, y + height * 0.42, { steps: 5 });
    await page.mouse.up();
    await page.waitForTimeout(200);
    const [start = 0, end = 100] = await seen(page);
    expect(start).toBeGreaterThan(30);
    expect(end).toBeLessThan(70);

    await page.locator('button[data-does=all]').focus();
    await page.keyboard.press('Enter');
    expect(await seen(page)).toEqual([0, 100]);
    await page.mouse.move(x + width * 0.5, y + height * 0.4);
    await page.keyboard.down('Control');
    await page.mouse.wheel(0, -300);
    await page.keyboard.up('Control');
    await page.waitForTimeout(300);
    const [from = 0, to = 100] = await seen(page);
    expect(to - from).toBeLessThan(95);
    await page.locator('button[data-does=log]').click();
    expect(await seen(page)).toEqual([from, to]);
    expect(noise).toEqual([]);
    await page.context().close();
  });

  test('two fingers zoom, and one still scrolls the page', async () => {
    const page = await open(phone, report);
    await page.locator('#training').scrollIntoViewIfNeeded();
    const { x, y, width, height } = await boxOf(page);
    const session = await page.context().newCDPSession(page);
    const touch = (type: 'touchStart' | 'touchMove' | 'touchEnd', ...points: [number, number][]) =>
      session.send('Input.dispatchTouchEvent', {
        type,
        touchPoints: points.map(([px, py], id) => ({ x: px, y: py, id })),
      });
    const [middle, level] = [x + width / 2, y + height * 0.4];
    await touch('touchStart', [middle - 20, level], [middle + 20, level]);
    for (let spread = 30; spread <= 110; spread += 10)
      await touch('touchMove', [middle - spread, level], [middle + spread, level]);
    await touch('touchEnd');
    await page.waitForTimeout(300);
    const [start = 0, end = 100] = await seen(page);
    expect(end - start).toBeLessThan(90);

    const before = Number(await page.evaluate('scrollY'));
    await touch('touchStart', [middle, level]);
    for (let up = 10; up <= 150; up += 10) await touch('touchMove', [middle, level - up]);
    await touch('touchEnd');
    await page.waitForTimeout(300);
    expect(Number(await page.evaluate('scrollY'))).toBeGreaterThan(before + 50);
    await page.context().close();
  });

  test('two fingers zoom also when one of them comes down on a line', async () => {
    const page = await open(phone, report);
    await page.locator('#training').scrollIntoViewIfNeeded();
    const { x, y, height } = await boxOf(page);
    const chart = "echarts.getInstanceByDom(document.getElementById('training'))";
    const resume = x + (await page.evaluate<number>(`${chart}.convertToPixel({ xAxisIndex: 0 }, 120)`));
    const session = await page.context().newCDPSession(page);
    const touch = (type: 'touchStart' | 'touchMove' | 'touchEnd', ...across: number[]) =>
      session.send('Input.dispatchTouchEvent', {
        type,
        touchPoints: across.map((each, id) => ({ x: each, y: y + height * 0.4, id })),
      });
    await touch('touchStart', resume, resume + 40);
    for (let apart = 10; apart <= 80; apart += 10) await touch('touchMove', resume - apart, resume + 40 + apart);
    await touch('touchEnd');
    await page.waitForTimeout(300);
    const [start = 0, end = 100] = await seen(page);
    expect(end - start).toBeLessThan(70);
    await page.context().close();
  });

  test('a script that is none of the page’s own does not run', async () => {
    const path = `${fileURLToPath(report)}.changed.html`;
    const page = readFileSync(fileURLToPath(report), 'utf8');
    writeFileSync(path, page.replace('<main>', '<main><script>document.title = "taken"</script>'));
    const changed = await open(desktop, pathToFileURL(path).href);
    expect(await changed.locator('#training svg').count()).toBe(1);
    expect(await changed.title()).not.toBe('taken');
    expect(noise.join()).toContain('Content Security Policy');
    await changed.context().close();
  });

  test('buttons show the rows that won, or lost, or all', async () => {
    const page = await open(desktop, report);
    const shown = () => page.locator('tr[data-change]:visible').count();
    expect(await shown()).toBe(3);
    for (const [kind, rows] of [
      ['won', 1],
      ['lost', 1],
      ['other', 1],
      ['all', 3],
    ] as const) {
      await page.locator(`button[data-filter=${kind}]`).click();
      expect(await shown()).toBe(rows);
      expect(await page.locator(`button[data-filter=${kind}]`).getAttribute('aria-pressed')).toBe('true');
    }
    expect(await sizeOf(page, 'tr[data-change=won] img', 'naturalWidth')).toBe(240);
    await page.context().close();
  });

  test('printed, its charts fit the paper and are drawn in dark on white', async () => {
    const page = await open({ ...desktop, colorScheme: 'dark' }, report);
    await page.evaluate("dispatchEvent(new Event('beforeprint'))");
    expect(await sizeOf(page, '#training svg', 'clientWidth')).toBeLessThanOrEqual(660);
    expect(await page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--page').trim()")).toBe(
      '#fff',
    );
    await page.evaluate("dispatchEvent(new Event('afterprint'))");
    expect(await sizeOf(page, '#training svg', 'clientWidth')).toBeGreaterThan(900);
    expect((await page.pdf()).length).toBeGreaterThan(20_000);
    await page.context().close();
  });
});

async function open(options: BrowserContextOptions, url: string): Promise<Page> {
  noise.length = 0;
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on('console', (message) => noise.push(`${message.type()}: ${message.text()}`));
  page.on('pageerror', (error) => noise.push(String(error)));
  page.on('request', (request) => {
    if (request.url() !== url && !request.url().startsWith('data:')) noise.push(request.url());
  });
  await page.goto(url);
  return page;
}

async function boxOf(page: Page): Promise<{ x: number; y: number; width: number; height: number }> {
  const box = await page.locator('#training').boundingBox();
  if (box === null) throw new Error('the curve is not there');
  return box;
}

function sizeOf(page: Page, selector: string, property: string): Promise<number> {
  return page.evaluate<number>(`document.querySelector(${JSON.stringify(selector)}).${property}`);
}

/** What of the curve is seen, in percent. */
async function seen(page: Page): Promise<number[]> {
  const read = "echarts.getInstanceByDom(document.getElementById('training')).getOption().dataZoom[0]";
  const { start, end } = await page.evaluate<{ start: number; end: number }>(read);
  return [start, end];
}

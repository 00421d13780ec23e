/**
 * Uses the chat page of a deployment in containers as a person does: in a real Chromium, which uploads a card and asks. Not part
 * of `npm test`: run it with `npm run test:docker`. It serves the tiny base, which answers something; with a run of the demo in
 * DEMO_RUN=.temper/runs/NAME it serves that run's model, asks a held-out row and wants the right answer.
 */
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { execa } from 'execa';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium, type Page } from 'playwright-core';
import { ask, questionOf, type ChatRow } from '../../host/chat-api.ts';
import type { Deployment } from '../../host/deployment/deployments.ts';
import { deploy, stopAllServed } from '../support/served.ts';

jest.setTimeout(600_000);

const root = fileURLToPath(new URL('../..', import.meta.url));
const run = process.env.DEMO_RUN;
const found = await execa('which', ['chromium'], { reject: false });
const executablePath = found.stdout;
const inChromium = executablePath === '' ? test.skip : test;

let home: string;
let deployment: Deployment;

beforeAll(async () => {
  if (executablePath === '') return;
  home = mkdtempSync(join(tmpdir(), 'temper-chat-page-'));
  const modelDir = join(home, 'model');
  cpSync(run === undefined ? join(root, 'demo/tiny-qwen3-vl') : join(run, 'merged'), modelDir, { recursive: true });
  deployment = await deploy({
    ...{ runName: 'shown', modelDir, modelDigest: 'ab'.repeat(32), golden: null },
    serving: { template: 'qwen3_vl_nothink', maxNewTokens: 32, cpu: true },
    place: { home, name: 'cards', runtime: 'docker', image: 'qwen3-vl-webui:latest' },
  });
});

afterAll(async () => {
  if (home === undefined) return;
  await stopAllServed(home);
  rmSync(home, { recursive: true });
});

/** A question about a card and its answer. */
async function shown(): Promise<{ question: ChatRow; expected: string }> {
  if (run === undefined) {
    const images = [join(root, 'demo/cards/images/0006.png')];
    const question = { messages: [{ role: 'user', content: '<image>识别这张工牌' }], images };
    return { question, expected: (await ask(question, { apiUrl: deployment.api.url, model: 'cards' })).text };
  }
  const [row = ''] = readFileSync(join(run, 'dataset/held_out.jsonl'), 'utf8').split('\n');
  return questionOf(JSON.parse(row) as ChatRow);
}

async function askOn(page: Page, { messages, images = [] }: ChatRow): Promise<void> {
  await page.goto(deployment.page.url);
  await page.getByText('ready').first().waitFor();
  await page.locator('input[type=file]').first().setInputFiles(images);
  await page.locator('.thumbnail-item').first().waitFor();
  const text = page.locator('textarea').first();
  await text.fill(messages[0]?.content.replace('<image>', '') ?? '');
  await text.press('Enter');
}

inChromium('a card that is uploaded is answered (skipped where there is no chromium on the PATH)', async () => {
  const { question, expected } = await shown();
  const args = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'];
  const browser = await chromium.launch({ executablePath, args });
  try {
    const page = await browser.newPage({ viewport: { width: 1000, height: 860 } });
    const asked: string[] = [];
    page.on('request', (request) => asked.push(new URL(request.url()).origin));
    await askOn(page, question);
    const answer = page.locator('.bot.message').filter({ hasText: expected });
    await answer.first().waitFor({ timeout: 120_000 });
    expect(expected).not.toBe('');
    expect(new Set(asked.filter((origin) => origin.startsWith('http')))).toEqual(new Set([deployment.page.url]));
  } finally {
    await browser.close();
  }
});

import { execa } from 'execa';
import { chromium, type Browser } from 'playwright-core';

const found = await execa('which', ['chromium'], { reject: false });

/** The Chromium on the PATH; empty where there is none. */
export const chromiumPath: string = found.stdout;

/** Start it without a window, and so that it asks the network for nothing by itself. */
export async function launchChromium(): Promise<Browser> {
  const args = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'];
  return chromium.launch({ executablePath: chromiumPath, args });
}

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { checkout } from '../checkout.ts';
import { jsonScript, markup, Markup } from './markup.ts';
import type { Chart } from './section.ts';

export interface MadeSection {
  id: string;
  title: string;
  body: Markup;
}

interface PageParts {
  title: string;
  top: Markup;
  sections: MadeSection[];
  charts: Record<string, Chart>;
}

const browserFolder = join(checkout, 'host/report/browser');

/** Apache ECharts with lines, bars and points, for both of its renderers; its license stands at its head. */
const chartLibrary = join(checkout, 'node_modules/echarts/dist/echarts.common.min.js');

/**
 * One HTML page that asks the network for nothing; the chart library stands in it only where there is something to draw. By its
 * policy a browser runs its own scripts and no other, whatever a model answered.
 */
export async function page({ title, top, sections, charts }: PageParts): Promise<string> {
  const style = await readFile(join(browserFolder, 'report.css'), 'utf8');
  const drawing = Object.keys(charts).length === 0 ? [] : await chartScripts();
  const scripts: Script[] = [...drawing, { type: 'module', text: await own('filter-rows.js') }];
  const html = markup`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="${policyFor(scripts)}">
<link rel="icon" href="data:,">
<title>${title}</title>
<style>${new Markup(style)}</style>
</head>
<body>
<header>
${top}
<nav aria-label="Sections">${sections.map(({ id, title: name }) => markup`<a href="#${id}">${name}</a>\n`)}</nav>
</header>
<main>
${sections.map(({ id, title: name, body }) => markup`<section id="${id}" aria-labelledby="${id}-title"><h2 id="${id}-title">${name}</h2>\n${body}</section>\n`)}
</main>
${drawing.length === 0 ? null : jsonScript('chart-data', charts)}${scripts.map(element)}</body>
</html>
`;
  return html.text;
}

interface Script {
  type: 'module' | 'text/javascript';
  text: string;
}

async function chartScripts(): Promise<Script[]> {
  const library = await readFile(chartLibrary, 'utf8').catch(() => undefined);
  if (library === undefined) return []; // `npm ci` has not been run since an upgrade: the page has its tables
  return [
    { type: 'text/javascript', text: inline(library) },
    { type: 'module', text: await own('charts.js') },
  ];
}

async function own(name: string): Promise<string> {
  return inline(await readFile(join(browserFolder, name), 'utf8'));
}

/** A script's text could end its element, or begin a comment in it. */
function inline(text: string): string {
  return text.replaceAll('</script', '<\\/script').replaceAll('<!--', '<\\!--');
}

function element({ type, text }: Script): Markup {
  return markup`<script type="${type}">${new Markup(text)}</script>\n`;
}

function policyFor(scripts: Script[]): string {
  const hashes = scripts.map(({ text }) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`);
  const loaded = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";
  return `${loaded}; script-src ${hashes.join(' ')}`;
}

#!/usr/bin/env node
// A page in Chinese renders the English one section by section, and above each heading it says which text it renders. Without
// options this writes those stamps anew, once the Chinese text has been gone over; --check only says where the two are out of
// step. --root names another folder that holds the pages.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

const PAGES = ['README', 'docs/tutorial'];
/** A page's link to itself in the other language. */
const LANGUAGES = /^(README|tutorial)(\.zh-CN)?\.md$/;
const STAMP = /^<!-- en: ([0-9a-f]{16}) -->$/;
/** What is the same in every language. */
const SHARED = {
  'a heading of this level': (text) => proseOf(text).match(/^#+(?= )/gm) ?? [],
  'this block': (text) => text.match(/^( *)```[\s\S]*?^\1```$/gm) ?? [],
  'this code': (text) => (proseOf(text).match(/`[^`]+`/g) ?? []).map((code) => code.replaceAll(/\s+/g, ' ')),
  'a link to': (text) =>
    [...proseOf(text).matchAll(/\]\(([^)]+)\)/g)].map(([, to]) => to).filter((to) => !LANGUAGES.test(to)),
  'the figure': (text) =>
    proseOf(text)
      .replaceAll(/`[^`]+`|\]\([^)]+\)/g, '')
      .match(/\d+(?:[.,]\d+)*/g) ?? [],
  'a row of a table with so many cells': (text) =>
    (proseOf(text).match(/^\|.*\|$/gm) ?? []).map((row) => `${row.split('|').length - 2}`),
};

const { values } = parseArgs({ options: { check: { type: 'boolean' }, root: { type: 'string', default: '.' } } });
const root = resolve(values.root);
const texts = PAGES.map((page) => ({
  file: join(root, `${page}.zh-CN.md`),
  english: sectionsOf(readFileSync(join(root, `${page}.md`), 'utf8')),
  chinese: sectionsOf(readFileSync(join(root, `${page}.zh-CN.md`), 'utf8')),
}));

const problems = texts.flatMap((text) => compareAll(text, values.check === true));
for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exit(1);
if (values.check !== true)
  for (const { file, english, chinese } of texts) {
    const stamped = chinese.map((section, index) => `<!-- en: ${digestOf(english[index])} -->\n${section.text}`);
    writeFileSync(file, `${stamped.join('\n\n')}\n`);
  }

/** A page cut at its headings of the first and second level, stamps set apart. */
function sectionsOf(page) {
  const sections = [];
  let stamp, fence;
  for (const line of page.split('\n')) {
    if (/^ *```/.test(line)) fence = fence ? undefined : line;
    if (!fence && STAMP.test(line)) stamp = STAMP.exec(line)[1];
    else if (!fence && /^##? /.test(line)) sections.push({ heading: line, stamp: take(), lines: [line] });
    else sections.at(-1)?.lines.push(line);
  }
  return sections.map(({ lines, ...section }) => ({ ...section, text: lines.join('\n').trim() }));

  function take() {
    const taken = stamp;
    stamp = undefined;
    return taken;
  }
}

function compareAll({ file, english, chinese }, withStamps) {
  if (english.length !== chinese.length)
    return [`${basename(file)} has ${chinese.length} sections, the English page ${english.length}`];
  return english.flatMap((original, index) => compare(original, chinese[index], withStamps));
}

function compare(original, rendering, withStamps) {
  const where = `"${original.heading}" and "${rendering.heading}"`;
  const problems = Object.entries(SHARED).flatMap(([what, find]) => {
    const [ours, theirs] = [find(original.text), find(rendering.text)];
    const missing = without(ours, theirs);
    const added = without(theirs, ours);
    return [
      ...missing.map((each) => `${where}: the Chinese lacks ${what}: ${each}`),
      ...added.map((each) => `${where}: only the Chinese has ${what}: ${each}`),
    ];
  });
  if (withStamps && rendering.stamp !== digestOf(original))
    problems.push(
      `${where}: the English has changed since it was rendered. Go over the Chinese, then: node scripts/stamp-zh.mjs`,
    );
  return problems;
}

function proseOf(text) {
  return text.replaceAll(/^( *)```[\s\S]*?^\1```$/gm, '');
}

/** What `all` has more often than `others`. */
function without(all, others) {
  const left = [...others];
  return all.filter((each) => {
    const index = left.indexOf(each);
    if (index >= 0) left.splice(index, 1);
    return index < 0;
  });
}

function digestOf({ text }) {
  return createHash('sha256').update(text.replaceAll(/\s+/g, ' ')).digest('hex').slice(0, 16);
}

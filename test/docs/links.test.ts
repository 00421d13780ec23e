import { expect, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { anchorsOf, pages, proseOf, readPage } from '../support/markdown.ts';

test.each([...pages, 'docs/log.md'])('every link, picture and anchor of %s leads somewhere', (page) => {
  for (const [, target = ''] of proseOf(readPage(page)).matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^(https?|mailto):/.test(target)) continue;
    const [path = '', anchor] = target.split('#');
    const file = path === '' ? join(checkout, page) : join(checkout, dirname(page), path);
    expect({ target, exists: existsSync(file) }).toEqual({ target, exists: true });
    if (anchor !== undefined) expect([...anchorsOf(readPage(relative(checkout, file)))]).toContain(anchor);
  }
});

test('each page of docs/ can be reached from both READMEs', () => {
  for (const readme of ['README.md', 'README.zh-CN.md']) {
    const linked = [...readPage(readme).matchAll(/\]\((docs\/[^)#]+)/g)].map(([, path]) => path);
    const isRendering = (page: string) => page.endsWith('.zh-CN.md');
    expect(linked).toEqual(expect.arrayContaining(pages.filter((page) => /^docs/.test(page) && !isRendering(page))));
  }
});

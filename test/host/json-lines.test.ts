import { expect, test } from '@jest/globals';
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { appendLine, readLines } from '../../host/json-lines.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

test('a line that a crash has torn spoils no other', async () => {
  const file = join(newFolder(), 'lines.jsonl');
  expect(await readLines(file)).toEqual([]);
  appendLine(file, { type: 'one' });
  appendFileSync(file, '{"type": "torn", "wh');
  appendLine(file, { type: 'two', text: 'größer\nand more' });
  appendFileSync(file, 'null\n{"no": "type"}\n[]\n');
  expect(await readLines(file)).toEqual([{ type: 'one' }, { type: 'two', text: 'größer\nand more' }]);
});

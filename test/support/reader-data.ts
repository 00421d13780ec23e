import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { editIn } from './clone.ts';
import type { Reader } from './reader.ts';

/** What stands for a reader's own pictures and base, so small that a processor trains on them in seconds. */
export function prepareData(reader: Reader): void {
  writeTable(reader, 'pictures', 64);
  writeTable(reader, 'receipts', 40);
  const { clone } = reader;
  editIn(clone, 'configs/demo.yaml', 'deploy:', reader.asHere('deploy:\n  apiPort: 8000\n  pagePort: 7860'));
  // The same training, judged on fewer rows and watched for less long.
  editIn(clone, 'configs/demo.yaml', 'maxNewTokens: 32', 'maxNewTokens: 32\n  maxRows: 16');
  editIn(clone, 'configs/demo.yaml', 'bakeSeconds: 10', 'bakeSeconds: 2');
}

/** Give a config that `temper init` has written a base that is here; `train` are more lines below it. */
export function makeSmall(reader: Reader, name: string, train = '', deploy = 'bakeSeconds: 2'): void {
  const { clone } = reader;
  const file = `configs/${name}.yaml`;
  editIn(clone, file, /^model:\n {2}source: .*\n/m, '');
  editIn(clone, file, /^train:\n/m, `train:\n  model_name_or_path: demo/tiny-qwen3-vl\n  use_cpu: true\n${train}`);
  editIn(clone, file, /^deploy:\n/m, reader.asHere(`deploy:\n  apiPort: 8000\n  pagePort: 7860\n  ${deploy}\n`));
}

interface Card {
  messages: { content: string }[];
  images: string[];
}

/** The demo's cards in a table. */
function writeTable({ clone }: Reader, folder: string, rows: number): void {
  const path = join(clone, 'data', folder);
  mkdirSync(path, { recursive: true });
  const cards = JSON.parse(readFileSync(join(checkout, 'demo/cards/cards.json'), 'utf8')) as Card[];
  const lines = cards.slice(0, rows).map(({ messages: [ask, answer], images: [picture = ''] }) => {
    const fields = [join(clone, 'demo/cards', picture), ask?.content.replace('<image>', ''), answer?.content];
    return fields.map(quoted).join();
  });
  writeFileSync(join(path, 'rows.csv'), ['picture,question,answer', ...lines, ''].join('\n'));
}

function quoted(text = ''): string {
  return `"${text.replaceAll('"', '""')}"`;
}

import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { execa } from 'execa';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'yaml';
import { checkout } from '../../host/checkout.ts';
import { runProgram, type ProgramResult } from '../../host/subprocess.ts';

// From a table of pictures to a config that can be planned, as a newcomer goes: `temper dataset convert`, `init`, `validate`.
jest.setTimeout(120_000);

let folder: string;
let env: Record<string, string>;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'temper-own-'));
  mkdirSync(join(folder, 'configs'));
  env = {
    TEMPER_HOME: join(folder, 'home'),
    TEMPER_CONFIGS: join(folder, 'configs'),
    TEMPER_DATA_ROOTS: `${checkout}:${folder}`,
  };
  for (const name of ['0000.png', '0001.png', '0002.png'])
    cpSync(join(checkout, 'demo/cards/images', name), join(folder, name));
  writeFileSync(join(folder, 'cards.csv'), 'picture,text\n0000.png,one\n0001.png,two\n0002.png,three\n');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function temper(...args: string[]): Promise<ProgramResult> {
  return runProgram(process.execPath, [join(checkout, 'cli/temper.mjs'), ...args], { env, cwd: folder });
}

const tiny = join(checkout, 'demo/tiny-qwen3-vl');
const cards = join(checkout, 'demo/cards');

test('a table becomes a dataset, the dataset a config, and both are good', async () => {
  const converted = await temper('dataset', 'convert', 'cards.csv', 'my-cards', '--json');
  expect(JSON.parse(converted.stdout)).toMatchObject({
    format: 'csv',
    rows: 3,
    name: 'my-cards',
    datasetDir: join(folder, 'my-cards'),
  });
  const made = await temper(
    'init',
    'mine',
    '--base',
    tiny,
    '--dataset',
    'my-cards',
    '--dataset-dir',
    'my-cards',
    '--deploy',
    'no',
  );
  expect(made.stdout).toMatch(/mine\.yaml is written\. Next:\n {2}npx temper doctor mine\n/);
  const config = parse(readFileSync(join(folder, 'configs/mine.yaml'), 'utf8')) as { train: object; deploy: object };
  expect(config.deploy).toEqual({ enabled: false });
  expect(config.train).toMatchObject({
    dataset: 'my-cards',
    dataset_dir: join(folder, 'my-cards'),
    finetuning_type: 'lora',
  });
  expect(JSON.parse((await temper('validate', 'mine', '--json')).stdout)).toMatchObject({ ok: true, rows: 3 });
});

test.each<[string[], number, RegExp]>([
  [['dataset', 'convert', 'nothing.csv', 'out'], 1, /^ConfigError: .*nothing\.csv is no file/],
  [
    ['dataset', 'convert', 'cards.csv', 'out', '--text-column', 'label'],
    1,
    /^DatasetError: .*no column 'label'; its header is picture, text/,
  ],
  [['dataset', 'convert', 'cards.csv', 'out', '--from', 'excel'], 2, /Allowed choices are coco-caption, llava/],
  [['init', 'mine', '--base', 'x'], 1, /^ConfigError: temper init needs --dataset, --dataset-dir where it can't ask/],
  [
    ['init', 'demo', '--base', 'x', '--dataset', 'y', '--dataset-dir', '.', '--force'],
    1,
    /not the name of a shipped one/,
  ],
  [['init', 'mine', '--base', 'x', '--dataset', 'y', '--dataset-dir', '.'], 1, /has no dataset_info\.json/],
  [['init', 'mine', '--base', 'x', '--dataset', 'crads', '--dataset-dir', cards], 1, /did you mean cards\?/],
  [['init', 'Mine!', '--base', 'x', '--dataset', 'y', '--dataset-dir', '.'], 1, /A config can't be called "Mine!"/],
  [
    ['init', 'mine', '--base', tiny, '--dataset', 'cards', '--dataset-dir', cards, '--deploy', 'A B'],
    1,
    /deploy\.name/,
  ],
])('temper %j ends with one sentence and leaves nothing', async (args, code, message) => {
  const { exitCode, stderr } = await temper(...args);
  expect([exitCode, stderr]).toEqual([code, expect.stringMatching(message)]);
  expect([existsSync(join(folder, 'out')), existsSync(join(folder, 'configs/mine.yaml'))]).toEqual([false, false]);
});

test('a config that is there is not written over', async () => {
  const args = ['init', 'mine', '--base', 'hf:Qwen/Qwen3-VL-4B-Instruct', '--dataset', 'cards', '--dataset-dir', cards];
  expect((await temper(...args)).exitCode).toBe(0);
  const again = await temper(...args);
  expect([again.exitCode, again.stderr]).toEqual([
    1,
    expect.stringMatching(/mine\.yaml is there already; give another name/),
  ]);
  expect((await temper(...args, '--method', 'full', '--force')).exitCode).toBe(0);
  expect(parse(readFileSync(join(folder, 'configs/mine.yaml'), 'utf8'))).toMatchObject({
    ...{
      model: { source: 'hf:Qwen/Qwen3-VL-4B-Instruct' },
      train: { finetuning_type: 'full' },
      deploy: { name: 'mine' },
    },
  });
});

test('on a terminal it asks for what is not given, and offers the datasets that there are', async () => {
  await temper('dataset', 'convert', 'cards.csv', 'my-cards');
  const command = `exec ${process.execPath} ${join(checkout, 'cli/temper.mjs')} init --base ${tiny} --dataset-dir ${folder}/my-cards`;
  const asking = execa('script', ['-qefc', command, '/dev/null'], {
    env: { ...env, TERM: 'xterm' },
    cwd: folder,
    stdin: 'pipe',
  });
  const answers: [RegExp, string][] = [
    [/The config's name/, 'asked\r'],
    [/my-cards in /, '\r'],
    [/How to fine-tune/, '\r'],
    [/Serve it as/, '\r'],
  ];
  let seen = '';
  asking.stdout.on('data', (chunk: Buffer) => {
    seen += chunk.toString();
    const [next] = answers;
    if (next === undefined || !next[0].test(seen)) return;
    answers.shift();
    seen = '';
    setTimeout(() => asking.stdin.write(next[1]), 200);
  });
  await asking;
  expect(parse(readFileSync(join(folder, 'configs/asked.yaml'), 'utf8'))).toMatchObject({
    ...{ train: { model_name_or_path: 'demo/tiny-qwen3-vl', dataset: 'my-cards' }, deploy: { name: 'asked' } },
  });
});

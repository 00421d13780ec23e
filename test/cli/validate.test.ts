import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cp, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { runProgram } from '../../host/subprocess.ts';

// The real command, started in a user's folder that has a training YAML and its `data` beside it.
jest.setTimeout(120_000);

interface Answer {
  exitCode: number | undefined;
  ok: boolean;
  rows: number;
  kept: number;
  problems: { row: number | null; code: string; severity: string; message: string; file: string; field?: string }[];
  tokens: { total: number } | null;
}

const folder = mkdtempSync(join(tmpdir(), 'temper-plain-'));
const base = join(checkout, 'demo/tiny-qwen3-vl');
const least = `model_name_or_path: ${base}\nstage: sft\ndo_train: true\ntemplate: qwen3_vl_nothink\n`;

beforeAll(async () => {
  await mkdir(join(folder, 'data/images'), { recursive: true });
  await cp(join(base, 'tokenizer.json'), join(folder, 'data/images/no-picture.png'));
  const tags = { role_tag: 'role', content_tag: 'content', user_tag: 'user', assistant_tag: 'assistant' };
  const columns = { messages: 'messages', images: 'images' };
  const entry = (file_name: string) => ({ file_name, formatting: 'sharegpt', columns, tags });
  write('data/dataset_info.json', JSON.stringify({ good: entry('good.json'), bad: entry('bad.json') }));
  write('data/good.json', JSON.stringify([row('one'), row('two'), row('three')]));
  write('data/bad.json', JSON.stringify([row('four'), { ...row('<image>what?'), images: ['images/no-picture.png'] }]));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function row(question: string) {
  const messages = [
    { role: 'user', content: question },
    { role: 'assistant', content: 'answer' },
  ];
  return { messages, images: [] as string[] };
}

function write(name: string, text: string): void {
  writeFileSync(join(folder, name), text);
}

async function validate(name: string): Promise<Answer> {
  const { exitCode, stdout } = await runProgram(
    process.execPath,
    [join(checkout, 'cli/temper.mjs'), 'validate', name, '--json'],
    { cwd: folder, env: { TEMPER_HOME: join(folder, 'home') } },
  );
  return { exitCode, ...(JSON.parse(stdout) as Omit<Answer, 'exitCode'>) };
}

test('a plain YAML is judged from the working directory, whatever the data roots are', async () => {
  write(
    'mine.yaml',
    `${least}dataset: good\noverwrite_output_dir: true\noutput_dir: saves\nresume_from_checkpoint: null\n`,
  );
  const answer = await validate('mine.yaml');
  expect(answer).toMatchObject({ exitCode: 0, ok: true, rows: 3, kept: 3, problems: [] });
  expect(answer.tokens?.total).toBeGreaterThan(0);
});

test('a bad row alone is exit code 1; beyond max_samples it is no problem', async () => {
  write('bad-row.yaml', `${least}dataset: good, bad\n`);
  const answer = await validate('bad-row.yaml');
  expect(answer).toMatchObject({ exitCode: 1, ok: false, rows: 5, kept: 4 });
  expect(answer.problems).toMatchObject([{ row: 1, code: 'picture-unreadable', severity: 'error', file: 'bad.json' }]);
  write('cut.yaml', `${least}dataset: good, bad\nmax_samples: 1\n`);
  expect(await validate('cut.yaml')).toMatchObject({ exitCode: 0, ok: true, rows: 2, kept: 2 });
});

test('bad options and bad rows, those of eval_dataset too, are said at once, with exit code 2', async () => {
  write('both.yml', `${least}dataset: good\neval_dataset: bad\nlora_rank: "8"\nlora_rnak: 4\nreport_to: wandb\n`);
  const { exitCode, ok, problems } = await validate('both.yml');
  expect({ exitCode, ok }).toEqual({ exitCode: 2, ok: false });
  expect(problems.map(({ row, code, field }) => [row, code, field])).toEqual([
    [null, 'config', 'lora_rank'],
    [null, 'config', 'lora_rnak'],
    [null, 'package-missing', 'report_to'],
    [1, 'picture-unreadable', 'images[0]'],
  ]);
  expect(problems[0]?.message).toBe(
    'both.yml:7:1: lora_rank: "8" is text, and it takes a whole number of at least 1: write lora_rank: 8 without quotes',
  );
  expect(problems[1]?.message).toContain('did you mean lora_rank?');
});

test('a base on a hub and a file named .json are warnings, and the rows are judged all the same', async () => {
  const hub = { model_name_or_path: 'Qwen/Qwen3-VL-4B-Instruct', do_train: true, template: 'qwen3_vl_nothink' };
  write('hub.json', JSON.stringify({ ...hub, dataset: 'good' }));
  const { problems, ...answer } = await validate('hub.json');
  expect(answer).toMatchObject({ exitCode: 0, ok: true, rows: 3, tokens: null });
  expect(problems.map(({ severity }) => severity)).toEqual(['warning', 'warning']);
  expect(problems.map(({ message }) => message).join()).toMatch(/name it \.yaml.*tokens were not counted/s);
});

test.each([
  ['a YAML that is none', 'open.yaml', '[1,\n', /^open\.yaml:2:1: not readable as YAML/],
  ["Temper's own config with a bad option", 'temper.yaml', 'train:\n  lora_rank: "8"\n', /train\.lora_rank/],
  ['options that name no rows', 'none.yaml', least, /none\.yaml: dataset: is missing/],
  ['a file that is not there', './nowhere.yaml', undefined, /there is no such file/],
])('%s is JSON and exit code 2', async (_, name, text, message) => {
  if (text !== undefined) write(name, text);
  const { problems, ...answer } = await validate(name);
  expect(answer).toMatchObject({ exitCode: 2, ok: false, rows: 0, kept: 0, tokens: null });
  expect(problems.every(({ row, code }) => row === null && code === 'config')).toBe(true);
  expect(problems.map((problem) => problem.message).join('\n')).toMatch(message);
});

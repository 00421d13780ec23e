import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { readJson } from '../../host/state-file.ts';
import { blocksOf, commandsOf, pages, withoutRemark } from '../support/markdown.ts';
import { makeSmall, prepareData } from '../support/reader-data.ts';
import { Reader } from '../support/reader.ts';
import { runElsewhere } from './run-elsewhere.ts';

// Every command of every bash block, as printed and in order: the README's first, as a stranger would go, then the other
// pages' beside the server and the runs that it has left.
jest.setTimeout(900_000);

/** The Chinese README's blocks are the English one's (zh.test.ts). */
const walked = pages.filter((page) => !page.endsWith('.zh-CN.md'));
/** A stranger's way. The tutorial begins on another machine; the upgrades make a version of the workers current, which stays. */
const ordered = [
  ...['README.md', 'docs/deployment.md', 'docs/tutorial.md'],
  ...walked.filter((page) => !/^(README|docs\/(deployment|tutorial|upgrades))\.md$/.test(page)),
  'docs/upgrades.md',
];

/** Programs that serve until they are stopped, and what they print once they do. */
const inAnotherShell: [RegExp, RegExp][] = [
  [/^(nohup )?npx temper up\b/, /Ctrl-C stops server and worker/],
  [/^(\w+=\S+ )*npx temper worker$/, /worker: ready/],
];

/** Run where they are there: they come neither with Debian's base system nor with set-up. */
const mayBeMissing = ['rsync', 'ssh'];

/** What the reader does by hand after a command. */
const byHand: [string, (reader: Reader) => void][] = [
  ['npx temper init my-model', (reader) => makeSmall(reader, 'my-model')],
  // The same way a second time: what is judged and served is the README's.
  ['npx temper init receipts', (reader) => makeSmall(reader, 'receipts', '  max_steps: 1\n', 'enabled: false')],
];

/** What a person who types is never too early for: the first command, once the second one succeeds. */
const once: [string, string][] = [
  [
    'temporal worker deployment set-current-version',
    'temporal worker deployment describe-version --deployment-name temper --build-id 2026-11-26',
  ],
  // A run that its host refuses has failed before anybody cancels it, and to cancel what has ended is no error.
  [
    'temporal workflow cancel --workflow-id first',
    `temporal workflow query --workflow-id first --type progress | grep '"checkEnvironment","started":"[^"]*","state":"done"'`,
  ],
];

/** What a command has to say, where exit code 0 is not enough. */
const says: [string, RegExp][] = [
  ['npm run demo -- --keep', /fine-tuned 生产部,编号697[^]*Right on \d+ held-out pictures[^]*Chat page/],
  ['curl --silent http://127.0.0.1:8000/v1/chat/completions', /"content":"生产部,编号697"/],
  ['npx temper dataset convert /data/pictures/rows.csv /data/datasets/my-rows', /^64 rows from csv/],
  ['npx temper validate my-model', /64 rows/],
  ['npx temper start my-model --name my-first --watch', /\ndeployed\n[^]*chat page/],
  ['npx temper runs', /my-first +deployed/],
  ['npx temper watch my-first', /\ndeployed\n/],
  ['npx temper deployments my-model', /deployed +run my-first/],
  ['temporal workflow query --workflow-id first --type progress', /checkEnvironment/],
  ['temporal schedule describe --schedule-id weekly', /fineTune/],
  ['npx temper trace http://127.0.0.1:8000', /my-first/],
];

let reader: Reader;
beforeAll(async () => {
  reader = await Reader.make();
  prepareData(reader);
});
afterAll(() => reader.leave());

test('what is not run here is run by the test that the table names', () => {
  const printed = walked.flatMap((page) => blocksOf(page).filter(isBash).flatMap(commandsOf)).map(withoutRemark);
  for (const { command, why, runBy, seenBy } of runElsewhere) {
    expect({ command, printed: printed.includes(command) }).toEqual({ command, printed: true });
    expect(why).not.toBe('');
    const source = existsSync(join(checkout, runBy)) ? readFileSync(join(checkout, runBy), 'utf8') : '';
    expect({ command, runBy, seen: source.includes(seenBy) }).toEqual({ command, runBy, seen: true });
  }
});

describe('every command works as printed in', () => {
  test.each(ordered)('%s', async (page) => {
    // The demo, too, uses the server that is there; the tutorial starts its own.
    if (page === 'docs/tutorial.md') await reader.type('npx temper down');
    else if (!existsSync(join(reader.clone, '.temper/up.json'))) await reader.serve('npx temper up', /Ctrl-C stops/);
    for (const block of blocksOf(page).filter(isBash))
      for (const printed of commandsOf(block)) await follow(withoutRemark(printed), { page, line: block.line });
    await reader.endRuns();
  });
});

async function follow(command: string, where: { page: string; line: number }): Promise<void> {
  if (runElsewhere.some((other) => other.command === command)) return;
  if (mayBeMissing.some((program) => command.startsWith(`${program} `) && !reader.has(program))) return;
  const serving = inAnotherShell.find(([pattern]) => pattern.test(command));
  if (serving !== undefined) return reader.serve(command, serving[1]);
  for (const [start, sign] of once) if (command.startsWith(start)) await reader.wait(sign);
  const done = await reader.type(command);
  expect({ ...where, command, ...done }).toMatchObject({ ...where, command, exitCode: 0 });
  for (const [start, pattern] of says) if (command.startsWith(start)) expect(done.stdout).toMatch(pattern);
  for (const [start, work] of byHand) if (command.startsWith(start)) work(reader);
}

describe('what the commands have left', () => {
  test('a cancelled run ends as cancelled and has a report', async () => {
    const run = join(reader.clone, '.temper/runs/first');
    expect(await readJson(join(run, 'manifest.json'))).toMatchObject({ outcome: 'cancelled' });
    expect(existsSync(join(run, 'report.html'))).toBe(true);
  });

  test("the address of a report is in the run's details, and answers", async () => {
    const { stdout } = await reader.type('temporal workflow metadata --workflow-id first --output json');
    const url = /\[report\]\((http:[^)]+)\)/.exec(stdout)?.[1] ?? '';
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/runs\/first$/);
    // Another port may have been free when `temper up` was started again.
    const up = await readJson<{ reportsUrl: string }>(join(reader.clone, '.temper/up.json'));
    const { pathname } = new URL(url);
    expect(await (await fetch(`${up?.reportsUrl}${pathname}`)).text()).toContain('<h1>first');
  });

  test('`temper up` a second time for the same home says where the first one is', async () => {
    const again = await reader.type('npx temper up');
    expect(again.exitCode).toBe(1);
    expect(again.stderr).toContain(`already runs for ${reader.clone}/.temper: server ${reader.env.TEMPORAL_ADDRESS}`);
  });

  test('`temper hosts` lists this host', async () => {
    const { stdout } = await reader.type('npx temper hosts --json');
    expect(JSON.parse(stdout)).toMatchObject([{ home: join(reader.clone, '.temper'), slots: 1 }]);
  });
});

function isBash({ language }: { language: string }): boolean {
  return ['bash', 'sh', 'shell', 'console'].includes(language);
}

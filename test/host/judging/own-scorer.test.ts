import { expect, test } from '@jest/globals';
import { scoreWithCommand } from '../../../host/judging/own-scorer.ts';
import { newFolder } from '../../fixtures/trainers/stand-in.ts';

const rows = ['a', 'b', 'c'].map((answer) => ({ question: 'Which?', images: ['/p.png'], expected: 'a\nb', answer }));

const script = (text: string) => ['sh', '-c', text];
const node = (text: string) => [process.execPath, '-e', text];

test('each row comes as a line of JSON, and its number goes back in order', async () => {
  const program = `const lines = require('fs').readFileSync(0, 'utf8').trimEnd().split('\\n').map((line) => JSON.parse(line));
    for (const { question, images, expected, answer } of lines)
      console.log(question === 'Which?' && images[0] === '/p.png' && expected === 'a\\nb' ? answer.charCodeAt(0) / 1000 : 0);`;
  expect(await scoreWithCommand(node(program), rows)).toEqual([0.097, 0.098, 0.099]);
});

test.each([
  ['0\\n1\\n.5', [0, 1, 0.5]],
  ['1e-3\\r\\n 1.0 \\n+0\\n\\n', [0.001, 1, 0]],
])('%j are numbers', async (text, wanted) => {
  expect(await scoreWithCommand(script(`printf '${text}'`), rows)).toEqual(wanted);
});

test('its arguments are seen by no shell, and it runs where it is told', async () => {
  const folder = newFolder();
  const program = 'console.log(process.argv[1] === "$(id)" && process.cwd() === process.argv[2] ? 1 : 0)';
  expect(await scoreWithCommand([...node(program), '$(id)', folder], rows.slice(0, 1), { cwd: folder })).toEqual([1]);
});

test('without rows it is not even run', async () => {
  expect(await scoreWithCommand(['no-such-program'], [])).toEqual([]);
});

test.each<[string, string[], RegExp]>([
  [
    'a missing program',
    ['no-such-scorer', 'x'],
    /^evaluate\.scorer \(no-such-scorer x\) could not be started: .*ENOENT/,
  ],
  ['no name at all', [''], /could not be started/],
  [
    'an exit code',
    script('echo 1; echo "no module" >&2; exit 3'),
    /ended with exit code 3; for 1 of 3 rows.*\nno module$/,
  ],
  ['a signal', script('kill -KILL $$'), /ended with SIGKILL; for 0 of 3 rows/],
  ['too few lines', script('echo 1; echo 0'), /printed 2 lines for 3 rows: row 3 has no score$/],
  ['no line', script(':'), /printed 0 lines for 3 rows: row 1 has no score$/],
  [
    'too many lines',
    script('echo 0; echo 0; echo 0; echo 0.7'),
    /printed 4 lines for 3 rows: "0\.7" belongs to no row$/,
  ],
  ['a word', script('echo 1; echo good; echo 1'), /printed "good" for row 2, which is not a number/],
  ['a greeting first', script('echo loading; echo 1; echo 1; echo 1'), /printed "loading" for row 1, which is not/],
  ['a gap', script('echo 1; echo; echo 1'), /printed "" for row 2, which is not a number/],
  ['nan', script('echo nan; echo 1; echo 1'), /printed "nan" for row 1/],
  ['hexadecimals', script('echo 0x1; echo 1; echo 1'), /printed "0x1" for row 1/],
  ['percents', script('echo 1; echo 1; echo 97.5'), /printed "97\.5" for row 3, a score is from 0 to 1/],
  ['less than nothing', script('echo -0.1; echo 1; echo 1'), /"-0\.1" for row 1, a score is from 0 to 1/],
])('%s is a ConfigError that says what was wrong', async (_, command, wanted) => {
  const scored = scoreWithCommand(command, rows);
  await expect(scored).rejects.toMatchObject({ name: 'ConfigError', message: expect.stringMatching(wanted) });
});

test('one that takes too long is stopped, and says so', async () => {
  const scored = scoreWithCommand(script('echo 1; trap "exit 0" TERM; sleep 600 & wait'), rows, { timeoutMs: 300 });
  await expect(scored).rejects.toThrow(/was stopped after 0\.3 s; for 1 of 3 rows/);
});

test('a cancelled run takes it along', async () => {
  const reason = new Error('not wanted any more');
  const cancelSignal = AbortSignal.abort(reason);
  await expect(scoreWithCommand(script('sleep 600'), rows, { cancelSignal })).rejects.toBe(reason);
});

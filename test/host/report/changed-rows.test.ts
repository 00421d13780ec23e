import { expect, test } from '@jest/globals';
import { answersTable } from '../../../host/report/answers-table.ts';
import { changedRows } from '../../../host/report/changed-rows.ts';
import { Markup } from '../../../host/report/markup.ts';
import { evaluationOf, picture, type Answers } from '../../support/reported-run.ts';

const answers: Answers[] = [
  { expected: 'A', candidate: 'A', champion: 'A', base: 'x' },
  { expected: 'B', candidate: 'x', champion: 'B', base: 'B' },
  { expected: 'C', candidate: 'C', champion: 'x', base: 'x' },
  { expected: 'D', candidate: 'x', champion: 'y', base: 'D' },
  { expected: 'E', candidate: 'E', champion: 'x', base: 'E' },
];

test('won rows come first, then lost ones, then other words; what both said alike is only counted', () => {
  const { rival, rows, same } = changedRows(evaluationOf(answers));
  expect(rival).toBe('champion');
  expect(rows.map(({ change, row }) => [change, row.expected])).toEqual([
    ['won', 'C'],
    ['won', 'E'],
    ['lost', 'B'],
    ['other', 'D'],
  ]);
  expect(same).toBe(1);
});

test('without a champion the candidate is compared with the base', () => {
  const { rival, rows } = changedRows(evaluationOf(answers.map(({ champion: _, ...others }) => others)));
  expect(rival).toBe('base');
  expect(rows.map(({ change, row }) => [change, row.expected])).toEqual([
    ['won', 'A'],
    ['won', 'C'],
    ['lost', 'B'],
    ['lost', 'D'],
  ]);
});

test("recorded scores of one's own scorer decide over the words", () => {
  const evaluation = evaluationOf([{ expected: 'A', candidate: 'a', champion: 'A' }]);
  Object.assign(evaluation.rows[0] ?? {}, { scores: { base: null, candidate: 1, champion: 0.5 } });
  evaluation.scores.candidate.metric = 'own';
  expect(changedRows(evaluation).rows[0]?.change).toBe('won');
});

test('shown are a hundred of each kind, and it is said how many are left out', async () => {
  const many = Array.from({ length: 130 }, (_, index) => ({
    ...{ expected: `right ${index}`, candidate: `right ${index}`, champion: 'wrong', images: [] },
  }));
  const table = await answersTable(
    evaluationOf([...many, { expected: 'Z', candidate: 'x', champion: 'Z', images: [] }]),
  );
  const page = table instanceof Markup ? table.text : '';
  expect(page.match(/<tr data-change="won">/g)).toHaveLength(100);
  expect(page.match(/<tr data-change="lost">/g)).toHaveLength(1);
  expect(page).toContain('30 more are left out here; evaluation.json has them all.');
});

test('each row has its pictures, and a missing one is no error', async () => {
  const table = await answersTable(
    evaluationOf([{ expected: 'A', candidate: 'A', champion: 'x', images: [picture, '/nowhere/card.png'] }]),
  );
  const page = table instanceof Markup ? table.text : '';
  expect(page).toMatch(/<img src="data:image\/webp;base64,[^"]+" width="240" height="\d+" alt="picture.png"/);
  expect(page).toContain('<span class="missing">card.png</span>');
});

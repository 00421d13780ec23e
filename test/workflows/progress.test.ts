import { expect, test } from '@jest/globals';
import { ProgressBoard } from '../../workflows/progress.ts';

// What the Temporal UI shows as a run's current details.

function boardOf(change: (board: ProgressBoard) => void): string {
  const board = new ProgressBoard('cards', () => {});
  board.set('loadConfig', { state: 'done', started: '2026-01-01T10:00:00Z', finished: '2026-01-01T10:00:01Z' });
  change(board);
  return board.toMarkdown();
}

test('while a stage runs it leads with that, and with how to look on', () => {
  const text = boardOf((board) => {
    board.set('trainModel', { state: 'scheduled', started: '2026-01-01T10:00:02Z' });
    board.began('trainModel', 2, '2026-01-01T10:00:03Z');
    board.link({ path: '/home/runs/cards' });
  });
  expect(text).toMatch(/^\*\*trainModel\*\*, attempt 2\. Live in a terminal: `npx temper watch cards`\n\n\| stage \|/);
  expect(text).toContain('| trainModel | **running** | 10:00:03 UTC |  | 2 |  |');
  expect(text).toMatch(/\n\nreport: `npx temper report cards --open` · directory: `\/home\/runs\/cards`$/);
});

test('a run that waits for approval gives both commands whole', () => {
  const text = boardOf((board) => board.set('deployModel', { state: 'awaitingApproval' }));
  for (const name of ['approve', 'reject'])
    expect(text).toContain(
      `\ntemporal workflow update execute --workflow-id cards --name ${name} --input '{"by":"…","why":"…"}'\n`,
    );
});

test('a failed run leads with the reason, its line breaks kept out of the table', () => {
  const text = boardOf((board) =>
    board.set('trainModel', { state: 'failed', headline: 'The disk is full.\nFree | 3 GB.' }),
  );
  expect(text).toMatch(/^\*\*trainModel failed:\*\* The disk is full\.\nFree \| 3 GB\.\n\n\| stage/);
  expect(text).toContain('| trainModel | **failed** |  |  |  | The disk is full. |');
});

test('a deployed run links to page, API and report', () => {
  const text = boardOf((board) =>
    board.link({
      ...{ path: '/home/runs/cards', reportUrl: 'http://127.0.0.1:8234/runs/cards' },
      ...{ pageUrl: 'http://127.0.0.1:7860', apiUrl: 'http://127.0.0.1:8000' },
    }),
  );
  expect(text).toMatch(
    /\n\n\[chat page\]\(http:\/\/127\.0\.0\.1:7860\) · \[API\]\(http:\/\/127\.0\.0\.1:8000\/v1\/models\) · \[report\]\(http:\/\/127\.0\.0\.1:8234\/runs\/cards\) · directory: `\/home\/runs\/cards`$/,
  );
});

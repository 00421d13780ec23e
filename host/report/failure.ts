import { existsSync } from 'node:fs';
import { lastLines, readFrom } from '../log-file.ts';
import { adviceFor } from './error-advice.ts';
import { facts, markup, type Content } from './markup.ts';
import type { ReportSource, Section } from './section.ts';

/** Lines and bytes of the trainer's log that stand in the report. */
const LOG_LINES = 30;
const LOG_BYTES = 64 * 1024;

export const failure: Section = {
  id: 'failure',
  title: 'What failed',
  make: async (source) => {
    const failed = source.state.failure;
    if (failed === undefined) return undefined;
    const { stage, error, message } = failed;
    const advice = await adviceFor(error);
    const [sentence = '', ...rest] = message.split('\n');
    const body = markup`<p class="lead">${stage} failed${error === undefined ? '' : ` (${error})`}: ${sentence}</p>
${rest.some((line) => line.trim() !== '') ? markup`<pre>${rest.join('\n').trim()}</pre>` : null}
${facts([
  ['What to do', code(advice?.toDo)],
  ['Who acts', code(advice?.whoActs)],
  ['What it means', code(advice?.means)],
  ['Tried again', code(advice?.retried)],
  ['Logs', logs(source)],
])}
${stage === 'trainModel' ? await logEnd(source) : null}`;
    return { body };
  },
};

function logs({ run }: ReportSource): Content {
  const places = [run.trainerLog, run.stageAttempts].filter((path) => existsSync(path));
  return places.length === 0 ? null : places.map((path) => markup`<code>${path}</code><br>`);
}

async function logEnd({ run }: ReportSource): Promise<Content> {
  const { text } = await readFrom(run.trainerLog, -LOG_BYTES).catch(() => ({ text: '' }));
  const shown = lastLines(text.trimEnd(), LOG_LINES).join('\n');
  if (shown.trim() === '') return null;
  return markup`<details><summary>The end of the trainer's log</summary><pre>${shown}</pre></details>`;
}

/** Text of the docs with its `code`. */
function code(text: string | undefined): Content {
  return text?.split('`').map((part, index) => (index % 2 === 1 ? markup`<code>${part}</code>` : part));
}

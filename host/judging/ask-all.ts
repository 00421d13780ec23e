import { ask, type AskOptions, type ChatRow } from '../chat-api.ts';
import { messageOf, TemperError } from '../errors.ts';

export interface TimedAnswer {
  text: string;
  latencyMs: number;
}

export interface AskAllOptions extends AskOptions {
  /** Who is asked, for people. */
  who: string;
  signal: AbortSignal;
}

const PARALLEL_REQUESTS = 4;

/** Ask all questions, a few at a time; the answers come in the questions' order. Throws DeploymentError when one gets none. */
export async function askAll(
  questions: ChatRow[],
  { who, ...options }: AskAllOptions,
  onAnswer: (done: number) => void,
): Promise<TimedAnswer[]> {
  const answers: TimedAnswer[] = [];
  let next = 0;
  let done = 0;
  const askOneByOne = async () => {
    for (let index = next++; index < questions.length; index = next++) {
      answers[index] = await ask(questions[index] as ChatRow, options);
      onAnswer(++done);
    }
  };
  await Promise.all(Array.from({ length: PARALLEL_REQUESTS }, askOneByOne)).catch((error: unknown) => {
    next = questions.length;
    options.signal.throwIfAborted();
    throw new TemperError('DeploymentError', `The ${who} could not answer a held-out row: ${messageOf(error)}`, {
      cause: error,
    });
  });
  return answers;
}

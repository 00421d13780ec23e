import * as z from 'zod';

/** What a run can be told of: how it ended, or that a candidate of it waits for a person. */
export const runEvents = [
  ...(['deployed', 'finished', 'rejected', 'rolledBack', 'failed', 'cancelled', 'awaitingApproval'] as const),
  'unchanged',
] as const;

export type RunEvent = (typeof runEvents)[number];

export const notifyFormats = ['json', 'slack', 'feishu', 'dingtalk', 'wecom'] as const;

/** Those that sign what they send, or whose service asks for a signature. */
const signed: readonly string[] = ['json', 'feishu', 'dingtalk'];

/** All that somebody has to know; a scheduled run that found nothing new is no news. */
export const defaultEvents: RunEvent[] = runEvents.filter((event) => event !== 'unchanged');

const variable = (example: string) =>
  z
    .string()
    .regex(
      /^[A-Z_][A-Z0-9_]*$/,
      `takes the name of an environment variable, such as ${example}, and never what is in it`,
    );

/** A receiver of a run's notifications. */
export const notifyEntry = z
  .strictObject({
    format: z.enum(notifyFormats).describe('json: any receiver, as docs/notifications.md says; else the chat service'),
    urlEnv: variable('TEMPER_SLACK_URL').describe(
      "Name of the variable in the worker's environment that holds the webhook's URL, which is a secret itself",
    ),
    secretEnv: variable('TEMPER_FEISHU_SECRET')
      .optional()
      .describe(
        "With json, feishu and dingtalk: name of the variable in the worker's environment that holds the secret",
      ),
    on: z.array(z.enum(runEvents)).min(1).default(defaultEvents).describe('What is told. Default: all but unchanged'),
  })
  .refine(({ format, secretEnv }) => secretEnv === undefined || signed.includes(format), {
    path: ['secretEnv'],
    message: 'slack and wecom sign nothing: leave it out, the URL is the secret',
  });

export type NotifyEntry = z.infer<typeof notifyEntry>;

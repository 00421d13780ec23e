import type { NotifyEntry } from '../../configs/notify-schema.ts';
import type { CheckItem } from '../check-item.ts';
import { receiverFault } from './send-notice.ts';

/** Whether the worker's environment has what telling each receiver takes; nothing is sent. */
export function receiverItems(entries: readonly NotifyEntry[], env: NodeJS.ProcessEnv = process.env): CheckItem[] {
  return entries.map((entry) => {
    const { format, urlEnv, secretEnv } = entry;
    const fault = receiverFault(entry, env);
    const variables = [urlEnv, ...(secretEnv === undefined ? [] : [secretEnv])].join(' and ');
    return {
      name: `notifications by ${format}`,
      found: fault ?? `${variables}, set`,
      needed: `${variables} in the worker's environment`,
      verdict: fault === undefined ? 'ok' : 'error',
      ...(fault === undefined ? {} : { fix: "set them where the worker is started, or change the config's notify" }),
    };
  });
}

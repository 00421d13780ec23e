import { loadConfig } from '../configs/load.ts';
import { runEvents, type NotifyEntry, type RunEvent } from '../configs/notify-schema.ts';
import { messageOf, TemperError } from '../host/errors.ts';
import type { NoticeFromHost } from '../host/notifications/notice.ts';
import { sampleNotice } from '../host/notifications/sample-notice.ts';
import { sendNotice } from '../host/notifications/send-notice.ts';
import { loadOptions } from '../host/settings.ts';
import { readSettings } from '../workers/settings.ts';

interface Trial {
  format: NotifyEntry['format'];
  urlEnv: string;
  taken: boolean;
  /** HTTP status of a receiver that took it. */
  status: number | null;
  /** What it said, or why it did not take it. */
  answer: string;
  /** Whether a run would tell it of such an event. */
  wanted: boolean;
}

/** `temper notify CONFIG`: send each receiver of a config a trial, and say what it answered; exit code 1 if one did not take it. */
export async function notify(name: string, { event, json }: { event: string; json?: boolean }): Promise<void> {
  const settings = readSettings();
  const { notify: entries = settings.notify === undefined ? [] : [settings.notify] } = loadConfig(
    name,
    loadOptions(settings),
  );
  if (entries.length === 0)
    throw new TemperError('ConfigError', `${name} has no notify, and TEMPER_NOTIFY_URL is not set: nobody is told.`);
  const notice = sampleNotice(eventNamed(event), settings.hostName);
  const trials = [];
  for (const entry of entries) {
    const trial = await send(entry, notice);
    trials.push(trial);
    if (json !== true) console.log(describe(trial, event));
  }
  if (json === true) console.log(JSON.stringify(trials, null, 2));
  if (trials.some(({ taken }) => !taken)) process.exitCode = 1;
}

async function send(entry: NotifyEntry, notice: NoticeFromHost): Promise<Trial> {
  const receiver = { format: entry.format, urlEnv: entry.urlEnv, wanted: entry.on.includes(notice.event) };
  try {
    const { status, answer } = await sendNotice(entry, notice);
    return { ...receiver, taken: true, status, answer: answer.trim() };
  } catch (error) {
    return { ...receiver, taken: false, status: null, answer: messageOf(error) };
  }
}

function describe({ format, urlEnv, taken, status, answer, wanted }: Trial, event: string): string {
  const aside = wanted ? '' : ` (a run would not tell it of ${event})`;
  return `${format} by ${urlEnv}: ${taken ? `taken, HTTP ${status}: ${answer || 'no words'}${aside}` : `FAILED: ${answer}`}`;
}

function eventNamed(name: string): RunEvent {
  const found = runEvents.find((event) => event === name);
  if (found !== undefined) return found;
  throw new TemperError('ConfigError', `There is no event ${name}; there are ${runEvents.join(', ')}.`);
}

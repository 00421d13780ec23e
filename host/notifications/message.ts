import type { RunEvent } from '../../configs/notify-schema.ts';
import { percent } from '../goodput/text.ts';
import { metricNames } from '../judging/scoring.ts';
import type { NoticeFromHost } from './notice.ts';

/** A notice in words, as every chat service gets it; nothing in it is marked up. */
export interface Message {
  title: string;
  tone: Tone;
  /** Why; the part that may be long. */
  why: string;
  fields: { label: string; value: string; isLink?: boolean }[];
  /** Commands to answer with, each with what it does. */
  commands: { label: string; command: string }[];
}

export type Tone = 'good' | 'bad' | 'asking' | 'neutral';

const endings: Record<RunEvent, { words: string; tone: Tone }> = {
  deployed: { words: 'is in service', tone: 'good' },
  finished: { words: 'is finished', tone: 'good' },
  rejected: { words: 'is rejected', tone: 'bad' },
  rolledBack: { words: 'was rolled back', tone: 'bad' },
  failed: { words: 'failed', tone: 'bad' },
  cancelled: { words: 'was cancelled', tone: 'neutral' },
  awaitingApproval: { words: 'waits for approval', tone: 'asking' },
  unchanged: { words: 'found nothing new to train on', tone: 'neutral' },
};

/** Longer reasons are in the report. */
const MAX_WHY_CHARACTERS = 800;

/** The words for a notice. */
export function messageFor(notice: NoticeFromHost): Message {
  const { event, runName, host, config, deployment, apiUrl, pageUrl, report, reportUrl, runDirectory } = notice;
  const { words, tone } = endings[event];
  const texts: [label: string, value: string | null][] = [
    ['Score', scoreText(notice)],
    ['Took', tookText(notice)],
    ['Config', config],
    ['Deployment', deployment],
    ['Host', host],
    ['Report', reportUrl === null ? (report ?? runDirectory) : null],
  ];
  const links: [label: string, value: string | null][] = [
    ['Report', report === null ? null : reportUrl],
    ['Chat page', pageUrl],
    ['API', apiUrl],
  ];
  const known = ([label, value]: [string, string | null]) => (value === null ? [] : [{ label, value }]);
  return {
    title: `Run ${runName} ${words}`,
    tone,
    why: truncate(oneLine(notice.why ?? ''), MAX_WHY_CHARACTERS),
    fields: [...texts.flatMap(known), ...links.flatMap(known).map((field) => ({ ...field, isLink: true }))],
    commands: commandsFor(notice),
  };
}

/** A field as Markdown; a link stands as it is, any other value as `plain` makes it. */
export function markdownField(
  { label, value, isLink }: Message['fields'][number],
  plain: (text: string) => string,
): string {
  return `**${label}**: ${isLink === true ? `[${value}](${value})` : plain(value)}`;
}

/** How a person answers a run that waits for one. */
export function commandsFor({ event, runName, namespace }: NoticeFromHost): Message['commands'] {
  if (event !== 'awaitingApproval') return [];
  const place = namespace === 'default' ? '' : `--namespace ${namespace} `;
  const command = (name: string) =>
    `temporal workflow update execute ${place}--workflow-id ${runName} --name ${name} --input '{"by":"YOUR NAME","why":"THE REASON"}'`;
  return [
    { label: 'To approve', command: command('approve') },
    { label: 'To reject', command: command('reject') },
  ];
}

/** Seconds from the run's start to the event. */
export function durationSeconds({ startedAt, at }: Pick<NoticeFromHost, 'startedAt' | 'at'>): number {
  return Math.max(0, Math.round((Date.parse(at) - Date.parse(startedAt)) / 1000));
}

/** A text of at most so many characters; no character is cut in two. */
export function truncate(text: string, maxCharacters: number): string {
  const characters = [...text];
  return characters.length <= maxCharacters ? text : `${characters.slice(0, maxCharacters - 1).join('')}…`;
}

/** A text of at most so many bytes of UTF-8; no character is cut in two. */
export function truncateBytes(text: string, maxBytes: number): string {
  if (Buffer.byteLength(text) <= maxBytes) return text;
  let kept = '';
  let bytes = Buffer.byteLength('…');
  for (const character of text) {
    bytes += Buffer.byteLength(character);
    if (bytes > maxBytes) break;
    kept += character;
  }
  return maxBytes < Buffer.byteLength('…') ? '' : `${kept}…`;
}

function scoreText({ evaluation }: NoticeFromHost): string | null {
  if (evaluation === null) return null;
  const { metric, rows, candidate, base, champion } = evaluation;
  const others = [
    ...(champion === null ? [] : [`champion ${percent(champion)}`]),
    ...(base === null ? [] : [`base ${percent(base)}`]),
  ];
  const beside = others.length === 0 ? '' : `; ${others.join(', ')}`;
  return `${percent(candidate)} ${metricNames[metric]} on ${rows} held-out rows${beside}`;
}

function tookText(notice: NoticeFromHost): string {
  const seconds = durationSeconds(notice);
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function oneLine(text: string): string {
  return text.replaceAll(/\s+/g, ' ').trim();
}

import cliTruncate from 'cli-truncate';
import { colors } from './colors.ts';
import stringWidth from 'string-width';
import { formatBytes } from '../../host/disk.ts';
import type { StageProgress, StageState } from '../../workflows/progress.ts';
import { durationText } from '../../host/duration.ts';
import { heartbeatText, type Heartbeat } from './heartbeat.ts';
import { endLines, outcomeOf } from './run-end.ts';
import type { RunSnapshot } from './run-snapshot.ts';
import { sparkline } from './sparkline.ts';

/** What is drawn beside the run itself. */
export interface DrawOptions {
  /** Of the terminal, in characters. */
  columns: number;
  rows: number;
  now: number;
  /** Why the server did not answer the last time, while it doesn't. */
  outage?: string | undefined;
}

const marks: Record<StageState, string> = {
  waiting: colors.dim('·'),
  awaitingApproval: colors.yellow('?'),
  scheduled: colors.yellow('…'),
  running: colors.cyan('▶'),
  done: colors.green('✔'),
  skipped: colors.dim('–'),
  failed: colors.red('✘'),
  cancelled: colors.yellow('■'),
};

const BAR_WIDTH = 24;
const INDENT = ' '.repeat(4);

/** A run as the lines of a terminal; when it has too few, the stages to come are left out, then the first ones. */
export function drawRun(snapshot: RunSnapshot, options: DrawOptions): string[] {
  const stages = snapshot.progress?.stages ?? [];
  const head = [headline(snapshot, options.now), ''];
  const below = [...noticeLines(snapshot, options), ...endLines(snapshot)];
  const heightOf = (line: string) => Math.max(1, Math.ceil(stringWidth(line) / options.columns));
  const room = options.rows - head.length - below.reduce((sum, line) => sum + heightOf(line), 2);
  const shown = fitting(
    stages.map((stage) => stageLines(stage, snapshot, options)),
    stages,
    room,
  );
  // What is below may be long and is to be read or copied whole: it wraps.
  const lines = [...head, ...shown].map((line) => cliTruncate(line, options.columns));
  return below.length > 0 ? [...lines, '', ...below] : lines;
}

function headline(snapshot: RunSnapshot, now: number): string {
  const { runName, startedAt, closedAt, activity } = snapshot;
  const until = closedAt === null ? now : Date.parse(closedAt);
  const elapsed = durationText((until - Date.parse(startedAt)) / 1000);
  const host = activity?.worker == null ? '' : colors.dim(` on ${activity.worker.replace(/^\d+@/, '')}`);
  return `${colors.bold(runName)}  ${outcomeOf(snapshot)} ${closedAt === null ? 'for' : 'after'} ${elapsed}${host}`;
}

/** All stages, or without those to come, or only from the running one on, as many lines as there is room for. */
function fitting(lines: string[][], stages: StageProgress[], room: number): string[] {
  const lengthOf = (parts: string[][]) => parts.flat().length;
  if (lengthOf(lines) <= room) return lines.flat();
  const begun = lines.filter((_, index) => stages[index]?.state !== 'waiting');
  return begun.flat().slice(-Math.max(1, room));
}

function stageLines(stage: StageProgress, snapshot: RunSnapshot, options: DrawOptions): string[] {
  const { state, started, finished, attempt, headline: result } = stage;
  const isNow = state === 'running' || state === 'scheduled';
  const end = finished ?? (isNow ? new Date(options.now).toISOString() : null);
  const seconds = started === null || end === null ? null : (Date.parse(end) - Date.parse(started)) / 1000;
  const time = seconds === null ? '' : durationText(seconds);
  const again = attempt !== null && attempt > 1 && isNow ? colors.yellow(`attempt ${attempt}  `) : '';
  const isQuiet = state === 'waiting' || state === 'skipped';
  const line = `${marks[state]} ${pad(stage.stage, 17)} ${pad(time, 12)} ${again}${firstLine(result)}`;
  const details =
    isNow && snapshot.activity?.name === stage.stage ? activityLines(snapshot.activity.heartbeat, options) : [];
  return [isQuiet ? colors.dim(line) : line, ...details.map((detail) => `${INDENT}${detail}`)];
}

function activityLines(heartbeat: Heartbeat, options: DrawOptions): string[] {
  if (heartbeat.waitingFor !== undefined) return []; // a notice says so
  if (heartbeat.step !== undefined && heartbeat.maxSteps != null) return trainingLines(heartbeat, options);
  const { done, total } = heartbeat;
  const text = heartbeatText(heartbeat);
  if (text === '') return [];
  return [done === undefined || !total ? text : `${bar(done / total)} ${text}`];
}

function trainingLines(heartbeat: Heartbeat, { columns, now }: DrawOptions): string[] {
  const { step = 0, maxSteps, loss, losses = [], secondsPerStep, etaSeconds, checkpointStep, phase } = heartbeat;
  const share = step / (maxSteps || 1);
  const doing = phase === 'training' || phase === undefined ? '' : colors.yellow(`  ${phase}`);
  const lines = [`${bar(share)} step ${step} of ${maxSteps}, ${Math.floor(share * 100)} %${doing}`];
  if (typeof loss === 'number')
    lines.push(`loss ${loss.toPrecision(3)}  ${colors.cyan(sparkline(losses, Math.min(60, columns - 24)))}`);
  const pace = typeof secondsPerStep === 'number' ? `${durationText(secondsPerStep)} a step` : '';
  const left =
    typeof etaSeconds === 'number' ? `${durationText(etaSeconds)} left, until ${clock(now + etaSeconds * 1000)}` : '';
  const kept = checkpointStep ? `checkpoint at step ${checkpointStep}` : '';
  lines.push([pace, left, kept].filter((part) => part !== '').join(' · '));
  lines.push(memoryLine(heartbeat));
  return lines.filter((line) => line !== '');
}

function memoryLine({ gpus = [], memoryReservedBytes }: Heartbeat): string {
  const uses = gpus.map(
    ({ index, usedMemoryBytes, totalMemoryBytes, utilization }) =>
      `GPU ${index}: ${formatBytes(usedMemoryBytes)} of ${formatBytes(totalMemoryBytes)}, ${Math.round(utilization * 100)} %`,
  );
  const reserved = memoryReservedBytes ? [`${formatBytes(memoryReservedBytes)} reserved`] : [];
  return [...reserved, ...uses].join(' · ');
}

function noticeLines({ notices }: RunSnapshot, { outage }: DrawOptions): string[] {
  const lost = outage === undefined ? [] : [`! the server does not answer, asking again: ${outage}`];
  return [
    ...lost.map((text) => colors.red(text)),
    ...notices.map(({ kind, text }) => (kind === 'waits' ? colors.yellow(`⏸ ${text}`) : colors.red(`! ${text}`))),
  ];
}

function bar(share: number): string {
  const filled = Math.round(Math.min(1, Math.max(0, share)) * BAR_WIDTH);
  return `${colors.cyan('━'.repeat(filled))}${colors.dim('─'.repeat(BAR_WIDTH - filled))}`;
}

function pad(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - stringWidth(text)));
}

function firstLine(text: string | null): string {
  return text?.split('\n')[0] ?? '';
}

function clock(time: number): string {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  const time24 = date.toTimeString().slice(0, 5);
  return isToday ? time24 : `${date.toISOString().slice(0, 10)} ${time24}`;
}

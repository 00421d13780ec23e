import { durationText } from '../duration.ts';
import { causes, type Cause } from '../goodput/account.ts';
import type { RunGoodput } from '../goodput/run-goodput.ts';
import { startUpParts } from '../goodput/start-ups.ts';
import { causeNames, partNames, partsExplained, percent, secondsText, startUpRows } from '../goodput/text.ts';
import { markup, table, type Content } from './markup.ts';
import type { Section } from './section.ts';

export const time: Section = {
  id: 'time',
  title: 'Where the time went',
  make: async (source) => {
    const goodput = await source.goodput();
    if (goodput === undefined) return undefined;
    return { body: markup`<p>${sentences(goodput)}</p>${bar(goodput)}${timeTable(goodput)}${startUpTable(goodput)}` };
  },
};

function sentences({ tokensPerSecond, mfu, device, steps, repeatedSteps, wallSeconds, goodput }: RunGoodput): string {
  const said: (string | false)[] = [
    `Of ${durationText(wallSeconds)} from the training being scheduled to its end, ${percent(goodput)} went into steps that count.`,
    `${steps.length} steps count, ${repeatedSteps} were made again or lost.`,
    tokensPerSecond !== undefined && `${tokensPerSecond.toFixed(0)} tokens a second in productive time.`,
    device !== undefined && mfu !== undefined && `Model FLOPs utilization on ${device}: ${percent(mfu)}.`,
  ];
  return said.filter((sentence) => sentence !== false).join(' ');
}

/** The shares as one bar; the table below it has the same in figures. */
function bar({ seconds, wallSeconds }: RunGoodput): Content {
  const shown = causes.filter((cause) => seconds[cause] > 0 && wallSeconds > 0);
  const part = (cause: Cause) =>
    markup`<span class="cause-${cause}" style="flex-grow:${seconds[cause].toFixed(3)}" title="${causeNames[cause]}"></span>`;
  return shown.length === 0 ? null : markup`<div class="shares" aria-hidden="true">${shown.map(part)}</div>`;
}

function timeTable({ seconds, wallSeconds }: RunGoodput): Content {
  const rows = causes.map((cause) => [
    markup`<span class="key cause-${cause}" aria-hidden="true"></span>${causeNames[cause]}`,
    secondsText(seconds[cause]),
    percent(wallSeconds > 0 ? seconds[cause] / wallSeconds : null),
  ]);
  const all = ['from being scheduled to the end', secondsText(wallSeconds), percent(1)];
  return table(['training', 'seconds', 'share'], [...rows, all], { numeric: (column) => column > 0 });
}

function startUpTable({ startUps }: RunGoodput): Content {
  if (startUps.length === 0) return null;
  const head = ['seconds until the first step', 'all', ...startUpParts.map((part) => partNames[part])];
  return markup`<h3>Start-up</h3>${table(head, startUpRows(startUps), { numeric: (column) => column > 0 })}<p class="note">${partsExplained}</p>`;
}

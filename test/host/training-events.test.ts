import { beforeEach, describe, expect, test } from '@jest/globals';
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { EventReader, lossCurve, readEvents, type TrainingEvent } from '../../host/training-events.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

let file: string;

beforeEach(() => {
  file = join(newFolder(), 'events.jsonl');
});

test('before the trainer has written anything there are no events', async () => {
  expect(await readEvents(file)).toEqual([]);
  appendFileSync(file, '');
  expect(await readEvents(file)).toEqual([]);
});

test('half a line waits for its other half, even where it is torn inside a letter', async () => {
  const reader = new EventReader(file);
  const line = Buffer.from(`${JSON.stringify({ ...step(1), note: 'größer' })}\n`);
  const cut = line.indexOf('ö') + 1;
  appendFileSync(file, line.subarray(0, cut));
  expect(await reader.read()).toEqual([]);
  appendFileSync(file, line.subarray(cut, -1));
  expect(await reader.read()).toEqual([]);
  appendFileSync(file, line.subarray(-1));
  expect(await reader.read()).toEqual([{ ...step(1), note: 'größer' }]);
});

test('each event is given once, in order, over however many reads', async () => {
  const reader = new EventReader(file);
  const seen: TrainingEvent[] = [];
  for (const count of [1, 0, 3, 1]) {
    for (let index = 0; index < count; index++) write(step(seen.length + index + 1));
    seen.push(...(await reader.read()));
  }
  expect(seen).toEqual([1, 2, 3, 4, 5].map((number) => step(number)));
  expect(await readEvents(file)).toEqual(seen);
});

test.each([
  ['what a library printed', 'Loading checkpoint shards: 100%'],
  ['an event torn by a crash', '{"type": "step", "step": 3, "lo'],
  ['JSON that is no event', '{"step": 3}'],
  ['JSON that is no object', 'null'],
  ['an empty line', ''],
])('%s is passed over', async (_, line) => {
  write(step(1));
  appendFileSync(file, `${line}\n`);
  write(step(2));
  expect(await readEvents(file)).toEqual([step(1), step(2)]);
});

describe('the loss curve is that of the training that counts', () => {
  test.each<[string, TrainingEvent[], [number, number | null][]]>([
    [
      'each step once',
      [started(0), step(1, 3), step(2, 2)],
      [
        [1, 3],
        [2, 2],
      ],
    ],
    [
      'trained again after a resume, the later loss',
      [started(0), step(1, 3), step(2, 9), started(1), step(2, 2)],
      [
        [1, 3],
        [2, 2],
      ],
    ],
    [
      'what a resume did not come to again is dropped',
      [started(0), step(1, 3), step(2, 9), step(3, 9), started(1), step(2, 2)],
      [
        [1, 3],
        [2, 2],
      ],
    ],
    [
      'a loss that is no number stays a gap',
      [started(0), step(1, null), step(2, 2)],
      [
        [1, null],
        [2, 2],
      ],
    ],
    ['nothing trained, nothing drawn', [started(0)], []],
  ])('%s', (_, events, curve) => {
    expect(lossCurve(events)).toEqual(curve.map(([number, loss]) => ({ step: number, loss })));
  });
});

function write(event: TrainingEvent): void {
  appendFileSync(file, `${JSON.stringify(event)}\n`);
}

function step(number: number, loss: number | null = 1 / number): TrainingEvent {
  return { type: 'step', step: number, loss, maxSteps: 5, time: 1 };
}

function started(resumedAtStep: number): TrainingEvent {
  return { type: 'started', attempt: 1, pid: 7, resumedFrom: null, resumedAtStep, time: 0 };
}

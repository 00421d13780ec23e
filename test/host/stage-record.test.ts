import { beforeEach, describe, expect, test } from '@jest/globals';
import { readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { oncePerInput, type StageOptions } from '../../host/stage-record.ts';
import { readJson } from '../../host/state-file.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

interface Result {
  output: string;
  call: number;
}

let folder: string;
let output: string;
let calls: number;

beforeEach(() => {
  folder = newFolder();
  output = join(newFolder(), 'output');
  calls = 0;
});

test('the same input gives the recorded result without any work', async () => {
  const first = await run({ inputs: { rows: 'digest', options: { a: 1, b: [2] } } });
  const second = await run({ inputs: { options: { b: [2], a: 1 }, rows: 'digest' } });
  expect(second).toEqual(first);
  expect(calls).toBe(1);
});

describe('the work is done anew', () => {
  const touch = (seconds: number) => utimesSync(output, seconds, seconds);
  test.each<[string, () => void, Partial<StageOptions<Result>>]>([
    ['when the input has changed', () => {}, { inputs: 'others' }],
    ['when a list in the input has another order', () => {}, { inputs: ['a', 'b'] }],
    ['when an output is gone', () => rmSync(output), {}],
    ['when an output has another size', () => writeFileSync(output, 'longer than before'), {}],
    ['when an output was written again', () => touch(1_000_000), {}],
    ['when what the record says no longer holds', () => {}, { stillHolds: () => false }],
    ['when its record is gone', () => rmSync(join(folder, 'merge.json')), {}],
  ])('%s', async (_, change, options) => {
    await run({ inputs: ['b', 'a'] });
    change();
    expect(await run({ inputs: ['b', 'a'], ...options })).toMatchObject({ call: 2 });
  });
});

test('work that fails leaves no record, so that the next attempt works again', async () => {
  const failing = async () => Promise.reject(new Error('disk full'));
  await expect(oncePerInput({ ...options, folder, outputs: () => [] }, failing)).rejects.toThrow('disk full');
  expect(readdirSync(folder)).toEqual([]);
  expect(await run()).toMatchObject({ call: 1 });
});

test('work that fails on another input takes the older record along, for it may have changed the outputs', async () => {
  await run({ inputs: 'old' });
  const failing = async () => Promise.reject(new Error('disk full'));
  await expect(oncePerInput({ ...options, folder, inputs: 'new', outputs: () => [] }, failing)).rejects.toThrow();
  expect(await run({ inputs: 'old' })).toMatchObject({ call: 2 });
});

test('a promised output that is missing is a failure of the stage', async () => {
  await expect(run({ outputs: () => [join(folder, 'never-written')] })).rejects.toThrow('never-written');
  expect(readdirSync(folder)).toEqual([]);
});

test('stages keep records of their own, with the digest, the outputs and the times', async () => {
  await run({ stage: 'merge' });
  await run({ stage: 'patch' });
  expect(calls).toBe(2);
  expect(await readJson(join(folder, 'patch.json'))).toMatchObject({
    stage: 'patch',
    inputDigest: expect.stringMatching(/^[0-9a-f]{64}$/),
    result: { call: 2 },
    outputs: { [output]: { sizeBytes: 6, mtimeMs: expect.any(Number) } },
    startedAt: expect.stringMatching(/Z$/),
    finishedAt: expect.stringMatching(/Z$/),
  });
});

const options = { stage: 'merge', inputs: 'same' };

async function run(changes: Partial<StageOptions<Result>> = {}): Promise<Result> {
  return oncePerInput<Result>({ ...options, folder, outputs: (result) => [result.output], ...changes }, async () => {
    writeFileSync(output, `call ${++calls}`);
    return Promise.resolve({ output, call: calls });
  });
}

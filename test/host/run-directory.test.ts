import { describe, expect, test } from '@jest/globals';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { openRunDirectory, runDirectory } from '../../host/run-directory.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

describe('a Workflow ID that is also a safe folder name is a run name', () => {
  test.each(['first', 'Run_7', 'qwen3-vl-4b.lora@night+1', 'nightly-2026-11-24T14:52:48Z', '0', 'x'.repeat(200)])(
    '%s',
    (name) => {
      expect(runDirectory('/home', name).path).toBe(`/home/runs/${name}`);
    },
  );
});

describe('any other Workflow ID is refused by name, so that no run leaves the runs folder', () => {
  test.each([
    '',
    '.',
    '..',
    '../other',
    'a/b',
    '/etc',
    '.hidden',
    '-rf',
    'a b',
    'a\nb',
    'a\0b',
    'größe',
    'x'.repeat(201),
  ])('%j', (name) => {
    const open = () => openRunDirectory('/nonexistent', name);
    expect(open).toThrow(expect.objectContaining({ name: 'ConfigError' }));
    expect(open).toThrow(JSON.stringify(name));
  });
});

test('opening makes the folder, and asking for the names does not', () => {
  const home = newFolder();
  runDirectory(home, 'run');
  expect(existsSync(join(home, 'runs'))).toBe(false);
  openRunDirectory(home, 'run');
  openRunDirectory(home, 'run');
  expect(existsSync(join(home, 'runs/run'))).toBe(true);
});

test('the files that others rely on have the names they know', () => {
  const { path: _, ...names } = runDirectory('/home', 'run');
  const below = Object.values(names).map((path) => path.replace('/home/runs/run/', ''));
  expect(below).toEqual(
    expect.arrayContaining([
      ...['run.json', 'environment.json', 'evaluation.json', 'deployment.json', 'manifest.json', 'report.html'],
      ...['dataset/report.json', 'train/config.yaml', 'train/output', 'train/trainer.log', 'train/process.json'],
      ...['train/exit.json', 'train/events.jsonl', 'merged', 'merged/merge.json'],
    ]),
  );
});

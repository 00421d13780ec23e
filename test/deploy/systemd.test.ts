import { beforeAll, describe, expect, test } from '@jest/globals';
import { execa } from 'execa';
import { readFileSync, writeFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { checkout } from '../../host/checkout.ts';
import { newFolder } from '../fixtures/trainers/stand-in.ts';

const unitFile = join(checkout, 'deploy/systemd/temper-worker.service');
const unit = readFileSync(unitFile, 'utf8');
const settings = new Map([...unit.matchAll(/^(\w+)=(.*)$/gm)].map(([, name, value]) => [name!, value!]));

describe('temper-worker.service', () => {
  test('spares trainers and deployments when the worker stops, restarts or runs out of memory', () => {
    expect(settings.get('KillMode')).toBe('process');
    expect(settings.get('OOMPolicy')).toBe('continue');
  });

  test('gives the worker longer to stop than the worker gives its activities', async () => {
    const source = await readFile(join(checkout, 'workers/gpu-host.ts'), 'utf8');
    const forced = Number(/shutdownForceTime: '(\d+)s'/.exec(source)?.[1]);
    expect(seconds('TimeoutStopSec')).toBeGreaterThanOrEqual(forced + 15);
  });

  test('comes back for ever, as a user of its own, with its settings from a file', () => {
    expect(Object.fromEntries(settings)).toMatchObject({
      ...{ Restart: 'always', StartLimitIntervalSec: '0', User: 'temper', EnvironmentFile: '/etc/temper/worker.env' },
      ...{ NoNewPrivileges: 'true', WantedBy: 'multi-user.target' },
    });
    expect(seconds('RestartSec')).toBeGreaterThan(0);
  });

  test('takes nothing away that GPUs, Docker or compiled code need', () => {
    for (const name of ['PrivateDevices', 'ProtectHome', 'PrivateTmp', 'PrivateNetwork', 'MemoryDenyWriteExecute'])
      expect([name, settings.has(name)]).toEqual([name, false]);
  });

  test('starts a program that is there', () => {
    const [program, script, command] = settings.get('ExecStart')!.split(' ');
    expect(program).toBe('/usr/bin/node');
    expect(readFileSync(join(checkout, script!), 'utf8')).toContain('#!/usr/bin/env node');
    expect(command).toBe('worker');
  });
});

describe('systemd itself', () => {
  let hasSystemd: boolean;

  beforeAll(async () => {
    hasSystemd = await execa('systemd-analyze', ['--version']).then(
      () => true,
      () => false,
    );
  });

  test('has nothing to say against the unit', async () => {
    if (!hasSystemd) return;
    const copy = join(newFolder(), 'temper-worker.service');
    writeFileSync(copy, unit.replace('/usr/bin/node', process.execPath));
    const { stdout, stderr } = await execa('systemd-analyze', ['verify', copy]);
    expect(stdout + stderr).toBe('');
  });
});

test('worker.env.example names settings that there are', async () => {
  const example = await readFile(join(checkout, 'deploy/systemd/worker.env.example'), 'utf8');
  const names = [...example.matchAll(/^(TEMPER_\w+)=/gm)].map(([, name]) => name!);
  expect(names.length).toBeGreaterThan(3);
  const folder = join(checkout, 'workers');
  const sources = await Promise.all((await readdir(folder)).map((file) => readFile(join(folder, file), 'utf8')));
  for (const name of names)
    expect([name, sources.some((source) => source.includes(`env.${name}`))]).toEqual([name, true]);
});

/** A time such as 60s, in seconds. */
function seconds(name: string): number {
  return Number(/^(\d+)s$/.exec(settings.get(name) ?? '')?.[1]);
}

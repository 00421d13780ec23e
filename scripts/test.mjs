#!/usr/bin/env node
// `npm test`: set-up, the linters, Jest for the TypeScript side, pytest for the Python side; one closing line for all.
// With arguments, Jest alone with those (for example `npm test -- test/host`).
import { Buffer } from 'node:buffer';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setUp } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const jest = ['--experimental-vm-modules', '--no-warnings=ExperimentalWarning', 'node_modules/jest/bin/jest.js'];

await setUp().catch((error) => {
  console.error(`setup: ${error.message}`);
  process.exit(1);
});
const only = process.argv.slice(2);
if (only.length > 0) process.exit(await run(process.execPath, [...jest, ...only]));

const results = mkdtempSync(join(tmpdir(), 'temper-test-'));
const jestResults = join(results, 'jest.json');
const pytestResults = join(results, 'pytest.xml');
const forkedResults = join(results, 'pytest-forked.xml');
// Forks LLaMA-Factory once it is imported, so nothing else may have started threads in its process.
const forked = ['train', 'ranks', 'nodes', 'deepspeed'].map((name) => `test/trainer/test_${name}.py`);
const linted = await run('npm', ['run', '--silent', 'lint']);
const audited = process.env.CI ? await run(process.execPath, ['scripts/audit.mjs']) : 0;
// Side by side, since one waits where the other computes; what pytest says comes when it has ended.
const [jestCode, pytestCodes] = await Promise.all([
  run(process.execPath, [...jest, '--json', `--outputFile=${jestResults}`]),
  runPytest(),
]);
// 2: a database could not be asked.
const codes = [linted, audited === 2 ? 0 : audited, jestCode, ...pytestCodes];
const counts = add(countsOfJest(jestResults), countsOfPytest(pytestResults), countsOfPytest(forkedResults), {
  passed: linted === 0 ? 1 : 0,
  failed: linted === 0 ? 0 : 1,
  skipped: 0,
});
rmSync(results, { recursive: true, force: true });
console.log(`\nTests: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exit(codes.every((code) => code === 0) && counts.failed === 0 ? 0 : 1);

async function runPytest() {
  return [
    await pytest(pytestResults, ['test', ...forked.map((file) => `--ignore=${file}`)]),
    await pytest(forkedResults, forked),
  ];
}

function pytest(report, targets) {
  const args = [
    '-m',
    'pytest',
    '-q',
    '-c',
    'trainer/pyproject.toml',
    '--rootdir',
    '.',
    `--junitxml=${report}`,
    ...targets,
  ];
  return run('trainer/.venv/bin/python', args, { env: { OMP_NUM_THREADS: '1' }, held: true });
}

/** Run a program to its end; returns its exit code. With `held` its output is printed in one piece when it has ended. */
function run(file, args, { env = {}, held = false } = {}) {
  return new Promise((resolve) => {
    const output = held ? 'pipe' : 'inherit';
    const child = spawn(file, args, { cwd: root, stdio: ['ignore', output, output], env: { ...process.env, ...env } });
    const chunks = [];
    for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => chunks.push(chunk));
    child.on('error', (error) => {
      console.error(`${file}: ${error.message}`);
      resolve(1);
    });
    child.on('close', (code) => {
      process.stdout.write(Buffer.concat(chunks));
      resolve(code ?? 1);
    });
  });
}

function countsOfJest(file) {
  if (!existsSync(file)) return { passed: 0, failed: 1, skipped: 0 };
  const { numPassedTests, numFailedTests, numPendingTests, numRuntimeErrorTestSuites } = JSON.parse(
    readFileSync(file, 'utf8'),
  );
  return { passed: numPassedTests, failed: numFailedTests + numRuntimeErrorTestSuites, skipped: numPendingTests };
}

function countsOfPytest(file) {
  if (!existsSync(file)) return { passed: 0, failed: 1, skipped: 0 };
  const count = (name) => Number(readFileSync(file, 'utf8').match(new RegExp(` ${name}="(\\d+)"`))?.[1] ?? 0);
  const failed = count('failures') + count('errors');
  return { passed: count('tests') - failed - count('skipped'), failed, skipped: count('skipped') };
}

function add(...all) {
  const sum = (key) => all.reduce((total, counts) => total + counts[key], 0);
  return { passed: sum('passed'), failed: sum('failed'), skipped: sum('skipped') };
}

#!/usr/bin/env node
// `npm run test:trackers`: real trainings that real trackers watch, in an environment of their own, which is made first.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { setUpTrackers } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));

await setUpTrackers({ tests: true }).catch((error) => {
  console.error(`setup: ${error.message}`);
  process.exit(1);
});
const pytest = ['-m', 'pytest', '-q', '-rs', '-c', 'trainer/pyproject.toml', '--rootdir', '.'];
const args = [...pytest, 'test/trainer/test_trackers.py', ...process.argv.slice(2)];
const env = { ...process.env, TEMPER_TEST_TRACKERS: '1' };
process.exit(spawnSync('trainer/.venv-trackers/bin/python', args, { cwd: root, stdio: 'inherit', env }).status ?? 1);

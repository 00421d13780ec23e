#!/usr/bin/env node
// `npm run test:vllm`: the tests of serving with vLLM, on its builds for the CPU; what they need is installed first.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { setUp, setUpVllm } from './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));

try {
  await setUp();
  await setUpVllm({ cpu: true });
} catch (error) {
  console.error(`setup: ${error.message}`);
  process.exit(1);
}
const pytest = ['-m', 'pytest', '-q', '-rs', '-c', 'trainer/pyproject.toml', '--rootdir', '.'];
const jest = ['--experimental-vm-modules', '--no-warnings=ExperimentalWarning', 'node_modules/jest/bin/jest.js'];
const codes = [
  run('trainer/.venv/bin/python', [...pytest, 'test/serving/test_vllm.py', ...process.argv.slice(2)]),
  run(process.execPath, [...jest, 'test/host/deployment/vllm.test.ts']),
];
process.exit(codes.every((code) => code === 0) ? 0 : 1);

function run(program, args) {
  const env = { ...process.env, TEMPER_TEST_VLLM: '1' };
  return spawnSync(program, args, { cwd: root, stdio: 'inherit', env }).status ?? 1;
}

#!/usr/bin/env node
// Makes serving/.venv-vllm, with which `deploy.backend: vllm` serves on this host's GPU (`npm run setup:vllm`).
import { setUpVllm } from './setup.mjs';

await setUpVllm({ cpu: false }).catch((error) => {
  console.error(`setup: ${error.message}`);
  process.exit(1);
});

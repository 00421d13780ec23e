#!/usr/bin/env node
// The `temper` command: makes the checkout ready if it isn't, then runs the built command line.
import { setUp } from '../scripts/setup.mjs';

try {
  await setUp();
} catch (error) {
  console.error(`setup: ${error.message}`);
  process.exit(1);
}
const { main } = await import('../dist/cli/main.js');
await main(process.argv);

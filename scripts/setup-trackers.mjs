#!/usr/bin/env node
// Installs the trackers that `report_to` names into the trainer's environment (`npm run setup:trackers`); set-up keeps them there.
import { setUpTrackers } from './setup.mjs';

await setUpTrackers({ tests: false }).catch((error) => {
  console.error(`setup: ${error.message}`);
  process.exit(1);
});

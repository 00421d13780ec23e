// Bundles the built workflows once, so that a worker starts in half a second instead of three.
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const fromRoot = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url));
const { code } = await bundleWorkflowCode({
  workflowsPath: fromRoot('dist/workflows/index.js'),
  logger: new DefaultLogger('WARN'),
});
writeFileSync(fromRoot('dist/workflow-bundle.cjs'), code);

import { mkdirSync, writeFileSync } from 'node:fs';
import { appendLine } from '../../host/json-lines.ts';
import { openRunDirectory, type RunDirectory } from '../../host/run-directory.ts';
import { writeJson } from '../../host/state-file.ts';
import { simulateTraining, type Simulated } from './simulated-training.ts';

/** Leave a simulated training in a run directory, as worker, keeper and trainer would have written it. */
export async function leaveTraining(
  home: string,
  name: string,
  seed: number,
): Promise<Simulated & { run: RunDirectory }> {
  const run = openRunDirectory(home, name);
  const simulated = simulateTraining(seed);
  const { attempts, trainers, events } = simulated.history;
  mkdirSync(run.train, { recursive: true });
  for (const line of attempts) appendLine(run.stageAttempts, line);
  for (const line of trainers) appendLine(run.trainers, line);
  writeFileSync(run.events, events.map((event) => `${JSON.stringify(event)}\n`).join(''));
  await writeJson(run.attempts, { trainingDigest: '', owner: '', crashes: [] });
  return { ...simulated, run };
}

import { inspectHost } from '../activities/check-environment.ts';
import { planFacts } from '../activities/plan-training.ts';
import { validationArguments } from '../activities/validate-dataset.ts';
import { loadConfig } from '../configs/load.ts';
import { TemperError } from '../host/errors.ts';
import { simulatedGpus } from '../host/planning/cards.ts';
import { explainPlan } from '../host/planning/plan-text.ts';
import { makePlanForHosts } from '../host/planning/plan-for-hosts.ts';
import { runPython } from '../host/python.ts';
import { openRunDirectory } from '../host/run-directory.ts';
import { loadOptions } from '../host/settings.ts';
import { readSettings } from '../workers/settings.ts';
import { changesOf } from './changes-of.ts';
import { progressLine } from './progress-line.ts';
import { inTemporaryRun } from './temporary-run.ts';

interface PlanOptions {
  /** A card's name, in place of this host's GPUs. */
  gpu?: string;
  gpus?: string;
  set: string[];
  json?: boolean;
}

/**
 * `temper plan CONFIG [--gpu CARD [--gpus N]]`: how a run would train on this host, or on cards that it doesn't have, and what
 * that would take; starts nothing. Exit code 1 when the training fits in no way.
 */
export async function plan(name: string, options: PlanOptions): Promise<void> {
  const settings = readSettings();
  const config = loadConfig(name, loadOptions(settings), changesOf(options.set));
  const others = simulated(options);
  await inTemporaryRun(async (home) => {
    const run = openRunDirectory(home, 'plan');
    const host = await inspectHost(config, run, settings.home, { mayFetch: false });
    await runPython(
      'trainer/validate_dataset.py',
      [
        ...validationArguments(config),
        ...[
          '--roots',
          settings.dataRoots.join(':'),
          '--cache-dir',
          `${settings.home}/cache/pictures`,
          '--out',
          run.dataset,
        ],
      ],
      options.json === true ? {} : { onProgress: progressLine('rows') },
    );
    const facts = await planFacts(config, { ...host, home: settings.home, run });
    const made = makePlanForHosts(
      others === undefined ? facts : { ...facts, ...others },
      config.plan.hosts?.length ?? 1,
    );
    if (options.json === true) console.log(JSON.stringify(made, null, 2));
    else for (const sentence of explainPlan(made)) console.log(sentence);
  });
}

function simulated({ gpu, gpus = '1' }: PlanOptions) {
  if (gpu === undefined) return undefined;
  const count = Number(gpus);
  if (!Number.isInteger(count) || count < 1) throw new TemperError('ConfigError', `--gpus ${gpus}: takes 1, 2, 3, …`);
  return simulatedGpus(gpu, count);
}

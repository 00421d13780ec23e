import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CheckEnvironmentResult } from '../../activities/check-environment.ts';
import type { EvaluateModelInput } from '../../activities/evaluate-model.ts';
import type { StageContext } from '../../activities/stage.ts';
import { loadConfig } from '../../configs/load.ts';
import type { ResolvedConfig } from '../../configs/schema.ts';
import { checkout } from '../../host/checkout.ts';
import { openRunDirectory } from '../../host/run-directory.ts';
import { writeWhole } from '../../host/state-file.ts';
import { releaseOf, standInServers, type Behavior } from './served.ts';
import { settingsOf } from './settings.ts';

/** The held-out rows: each shows a card with a number on it. */
export const NUMBERS = ['one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight'];

export function questionAbout(number: string): string {
  return `What is on the card after ${number}?`;
}

/** Answers that are right for the first so many numbers. */
export function knowing(count: number): Record<string, string> {
  return Object.fromEntries(
    NUMBERS.map((number, index) => [questionAbout(number), index < count ? number : 'no idea']),
  );
}

export interface Changes {
  gates?: Partial<ResolvedConfig['evaluate']['gates']>;
  evaluate?: Partial<ResolvedConfig['evaluate']>;
  deploy?: Partial<ResolvedConfig['deploy']>;
}

/** A host whose models are stand-ins, with a base and a dataset; its runs are judged and deployed as "cards". */
export interface JudgingHost {
  home: string;
  config: (changes?: Changes) => ResolvedConfig;
  context: (runName: string, changes?: Partial<StageContext>) => StageContext;
  /** A run's model that behaves so, its held-out rows in the run's directory; returns what its stages are given. */
  run: (runName: string, behavior: Behavior, changes?: Changes, numbers?: string[]) => Promise<EvaluateModelInput>;
  /** What a model was asked, in order of the rows. */
  asked: (who: string) => { text: string; pictures: number }[];
  /** A file that this model notes its questions in. */
  requestLog: (who: string) => string;
}

export function judgingHost(home: string, baseBehavior: Behavior = {}): JudgingHost {
  const requestLog = (who: string) => join(home, `${who}.asked.jsonl`);
  const base = releaseOf(home, 'base', {
    answers: knowing(2),
    requestLog: requestLog('base'),
    ...baseBehavior,
  }).modelDir;
  writeFileSync(join(base, 'config.json'), '{"dtype": "bfloat16"}');
  const config = (changes: Changes = {}) => configOf(home, base, changes);
  return {
    home,
    config,
    requestLog,
    context: (runName, changes = {}) => ({ ...contextOf(home, runName), ...changes }),
    run: async (runName, behavior, changes = {}, numbers = NUMBERS) => {
      const { modelDir, modelDigest } = releaseOf(home, runName, { requestLog: requestLog(runName), ...behavior });
      await holdOut(home, runName, numbers);
      return {
        config: config(changes),
        environment,
        dataset: { ...dataset, heldOutRows: numbers.length },
        baseDigest: 'base digest',
        model: { modelDir, modelDigest },
      };
    },
    asked: (who) => askedIn(requestLog(who)),
  };
}

const environment: CheckEnvironmentResult = {
  ...{ precision: 'fp16', training: {}, gpus: [], warnings: [], versions: {}, headline: 'CPU' },
};

const dataset = {
  ...{ rows: 10, kept: 10, trainRows: 2, heldOutRows: 8, digest: 'rows digest', reportPath: '', problemCount: 0 },
  headline: '',
};

function configOf(home: string, base: string, { gates, evaluate, deploy }: Changes): ResolvedConfig {
  const demo = loadConfig('demo', {
    ...{ configsFolder: join(checkout, 'configs'), root: checkout, allowedRoots: [checkout], modelsRoot: home },
  });
  const address = { host: '127.0.0.1', apiPort: 0, pagePort: 0 };
  return {
    ...demo,
    train: { ...demo.train, model_name_or_path: base },
    evaluate: { ...demo.evaluate, ...evaluate, gates: { ...demo.evaluate.gates, ...gates } },
    deploy: { ...demo.deploy, ...address, name: 'cards', bakeSeconds: 0.3, placement: 'beside', ...deploy },
  };
}

function contextOf(home: string, runName: string): StageContext {
  const settings = settingsOf(home, { servingCommands: standInServers });
  return {
    ...{ settings, runName, executionId: `execution of ${runName}`, run: openRunDirectory(home, runName) },
    ...{ signal: new AbortController().signal, attempt: 1, owner: `${runName}/1`, report: () => {} },
  };
}

async function holdOut(home: string, runName: string, numbers: string[]): Promise<void> {
  const rows = numbers.map((number) => {
    const picture = join(home, `${number}.png`);
    writeFileSync(picture, `a card with ${number} on it`);
    const messages = [
      { role: 'user', content: `<image>${questionAbout(number)}` },
      { role: 'assistant', content: number },
    ];
    return JSON.stringify({ messages, images: [picture] });
  });
  await writeWhole(openRunDirectory(home, runName).heldOut, rows.map((row) => `${row}\n`).join(''));
}

function askedIn(file: string): { text: string; pictures: number }[] {
  const lines = readFileSync(file, 'utf8').trim().split('\n');
  const asked = lines.map((line) => JSON.parse(line) as { text: string; pictures: number });
  const order = NUMBERS.map(questionAbout);
  return asked.sort((one, other) => order.indexOf(one.text) - order.indexOf(other.text));
}

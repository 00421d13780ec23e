import { checkOptions, listOf, type Train } from './check-options.ts';
import type { ConfigIssue } from './config-error.ts';
import type { Config, ModelSource } from './schema.ts';

/** Sections that passed the schema each on its own; what failed it is left out. */
export interface SoundParts {
  train: Train;
  model?: ModelSource;
  heldOut?: Config['heldOut'];
  plan?: Config['plan'];
  evaluate?: Config['evaluate'];
  deploy?: Config['deploy'];
}

const loopback = new Set(['127.0.0.1', '::1', 'localhost']);

/** Settings that are right one by one and wrong together. */
export function checkTogether({ train, heldOut, plan, evaluate, deploy }: SoundParts): ConfigIssue[] {
  const issues: ConfigIssue[] = [];
  const refuse = (path: string, message: string) => issues.push({ path, message: `${path}: ${message}` });
  for (const { option, message } of checkOptions({ ...train, streaming: undefined }))
    refuse(`train.${option}`, message);
  checkWhatTemperDoes(train, refuse);
  checkGates(evaluate, heldOut, refuse);
  checkHosts(plan, refuse);

  if (deploy !== undefined) {
    if (deploy.apiPort === deploy.pagePort && deploy.apiPort !== 0) {
      refuse('deploy.pagePort', `${deploy.pagePort} is the API's port too; give one of them another`);
    }
    if (!loopback.has(deploy.host) && deploy.apiKeyEnv === undefined) {
      refuse(
        'deploy.apiKeyEnv',
        `is missing: with host ${deploy.host} others can reach the API, so it wants a key; name the variable that holds it`,
      );
    }
    if (deploy.approval === 'manual' && !deploy.enabled)
      refuse('deploy.approval', 'manual, and deploy.enabled is false: nothing is there to approve; leave one out');
  }
  return issues;
}

/** Hosts that train together have to find each other. */
function checkHosts(plan: SoundParts['plan'], refuse: (path: string, message: string) => void): void {
  const { hosts, rendezvous } = plan ?? {};
  if (hosts !== undefined && rendezvous === undefined)
    refuse('plan.rendezvous', `is missing: name where the other hosts reach ${hosts[0]}, such as 10.0.0.5:29400`);
  if (hosts === undefined && rendezvous !== undefined)
    refuse('plan.rendezvous', 'is for hosts that train together, and plan.hosts names none; leave it out');
  const twice = hosts?.find((host, index) => hosts.indexOf(host) !== index);
  if (twice !== undefined) refuse('plan.hosts', `${twice} is there twice`);
}

/** A gate on answers wants rows that are asked. */
function checkGates(
  evaluate: SoundParts['evaluate'],
  heldOut: SoundParts['heldOut'],
  refuse: (path: string, message: string) => void,
): void {
  const missing = [
    ...(evaluate?.enabled === false ? ['evaluate.enabled is false: set it to true'] : []),
    ...(heldOut?.fraction === 0 ? ['heldOut.fraction is 0: set it to 0.1'] : []),
  ];
  for (const gate of ['minScore', 'maxLatencyP95Ms'] as const) {
    if (evaluate?.gates[gate] === undefined || missing.length === 0) continue;
    refuse(`evaluate.gates.${gate}`, `judges answers to held-out rows, and ${missing.join(', and ')}; or leave it out`);
  }
  if (evaluate?.gates.maxMemoryGiB !== undefined && !evaluate.enabled)
    refuse('evaluate.gates.maxMemoryGiB', 'evaluate.enabled is false: set it to true; or leave it out');
}

/** What LLaMA-Factory takes and Temper doesn't, because of what comes before and after the training. */
function checkWhatTemperDoes(train: Train, refuse: (path: string, message: string) => void): void {
  const hasAdapter = (train.finetuning_type ?? 'lora') === 'lora';
  const adapters = listOf(train.adapter_name_or_path);
  if (train.streaming === true)
    refuse('train.streaming', 'the clean rows are a file that is tokenized once before the training; leave it out');
  if (train.mix_strategy !== undefined && train.mix_strategy !== 'concat') {
    refuse(
      'train.mix_strategy',
      'the clean rows of all datasets are one file; leave it out, and weigh a dataset by num_samples in dataset_info.json',
    );
  }
  if (train.eval_on_each_dataset === true && listOf(train.eval_dataset).length > 1)
    refuse('train.eval_on_each_dataset', 'the clean rows of all eval_datasets are one file; leave it out');
  if (hasAdapter && (adapters.length > 1 || (adapters.length === 1 && train.create_new_adapter === true))) {
    refuse(
      'train.adapter_name_or_path',
      'LLaMA-Factory would merge adapters into the base first, and the new one would fit only that; merge them (temper merge), and use the result as the base',
    );
  }
  for (const name of ['resize_vocab', 'add_tokens', 'add_special_tokens', 'new_special_tokens_config'] as const) {
    const given = train[name];
    if (hasAdapter && given != null && given !== false) {
      refuse(
        `train.${name}`,
        "an adapter doesn't hold new tokens' embeddings; leave it out, or use finetuning_type: full",
      );
    }
  }
  if (train.adapter_folder != null && /(^\/)|(^|\/)\.\.(\/|$)/.test(train.adapter_folder)) {
    refuse('train.adapter_folder', 'must name a folder inside the adapter');
  }
}

import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { parse } from 'yaml';
import { ConfigError } from '../../configs/config-error.ts';
import { listConfigs, loadConfig } from '../../configs/load.ts';
import type { Config } from '../../configs/schema.ts';

const shippedConfigs = resolve('configs');
const temporary = mkdtempSync(join(tmpdir(), 'temper-configs-'));
let root = '';
let count = 0;

/** A host with a base, a dataset and an empty configs folder below a fresh root. */
beforeEach(() => {
  root = join(temporary, String(++count));
  for (const folder of ['model/base', 'datasets/rows', 'configs', 'outside/rows']) {
    mkdirSync(join(root, folder), { recursive: true });
  }
});

afterAll(() => rmSync(temporary, { recursive: true, force: true }));

const least = {
  model_name_or_path: 'model/base',
  dataset: 'rows',
  dataset_dir: 'datasets/rows',
  template: 'qwen3_vl_nothink',
};

function load(input: string | object, allowed = ['model', 'datasets']) {
  const allowedRoots = allowed.map((folder) => join(root, folder));
  return loadConfig(input, {
    configsFolder: join(root, 'configs'),
    root,
    allowedRoots,
    modelsRoot: join(root, 'model'),
  });
}

function write(name: string, text: string): string {
  writeFileSync(join(root, 'configs', name), text);
  return name;
}

function refusal(work: () => unknown): ConfigError {
  try {
    work();
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('was accepted');
}

describe('shipped configs', () => {
  test.each(listConfigs(shippedConfigs))('%s is accepted without remarks', (name) => {
    for (const folder of ['demo/tiny-qwen3-vl', 'demo/cards', 'data/datasets/my-rows'])
      mkdirSync(join(root, folder), { recursive: true });
    for (const size of ['4b', '8b']) mkdirSync(join(root, `data/model/qwen3-vl-${size}-instruct`), { recursive: true });
    const text = readFileSync(join(shippedConfigs, `${name}.yaml`), 'utf8');
    write(`${name}.yaml`, text.replaceAll(' /data/', ` ${root}/data/`));

    const config = load(name, ['demo', 'data']);

    expect(config).toMatchObject({ name, source: join(root, 'configs', `${name}.yaml`), deploy: { name }, notes: [] });
    expect(config.train.model_name_or_path.startsWith(root)).toBe(true);
    expect(text.startsWith('# yaml-language-server: $schema=./schema.json\n')).toBe(true);
  });

  test('the four for a GPU have a global batch of 16, whose cut is planned', () => {
    const large = listConfigs(shippedConfigs).filter((name) => name !== 'demo');
    expect(large).toEqual(['qwen3-vl-4b-full', 'qwen3-vl-4b-lora', 'qwen3-vl-4b-lora-v100', 'qwen3-vl-8b-lora']);
    for (const name of large) {
      const { plan, train } = parse(readFileSync(join(shippedConfigs, `${name}.yaml`), 'utf8')) as Config;
      expect(plan.globalBatchSize).toBe(16);
      expect(train).not.toHaveProperty('per_device_train_batch_size');
      expect(train).not.toHaveProperty('gradient_accumulation_steps');
    }
  });
});

describe("a LLaMA-Factory user's own YAML", () => {
  const pasted = `
### model
model_name_or_path: model/base
image_max_pixels: 262144
video_max_pixels: 16384
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: mllm_demo,identity  # video: mllm_video_demo
dataset_dir: datasets/rows
template: qwen3_vl_nothink
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/qwen3-vl-4b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 16
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null

### eval
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
`;

  test('is accepted line for line, and each line that Temper decides itself is answered', () => {
    const config = load(write('mine.yaml', `train:\n${pasted.replaceAll(/^(?=.)/gm, '  ')}`));

    expect(config.train).toMatchObject({
      dataset: 'mllm_demo,identity',
      lora_target: 'all',
      cutoff_len: 2048,
      per_device_train_batch_size: 1,
      gradient_accumulation_steps: 16,
      learning_rate: 1e-4,
      num_train_epochs: 3,
      lr_scheduler_type: 'cosine',
      val_size: 0.1,
      plot_loss: true,
      image_max_pixels: 262144,
    });
    const answered = ['output_dir', 'overwrite_output_dir', 'logging_steps', 'trust_remote_code'];
    expect(config.notes.map((note) => /^train\.(\w+)/.exec(note)?.[1]).sort()).toEqual(answered.sort());
    for (const name of answered) expect(config.train).not.toHaveProperty(name);
  });

  test('is evaluated as often as LLaMA-Factory would, though Temper logs every step', () => {
    expect(load(write('mine.yaml', `train:\n${pasted.replaceAll(/^(?=.)/gm, '  ')}`)).train.eval_steps).toBe(10);
  });

  test('given without train: gets one answer that says where it goes', () => {
    const error = refusal(() => load(write('mine.yaml', pasted)));
    expect(error.message).toBe(
      "configs/mine.yaml:3:1: model_name_or_path and 34 more are LLaMA-Factory's options: put a line `train:` above them and indent them by two spaces",
    );
  });

  test('may say yes and no, as YAML 1.1 has it, and 1e-4, and lists of names', () => {
    const config = load(
      write(
        'mine.yaml',
        `train:
  model_name_or_path: model/base
  dataset: [one, two]
  dataset_dir: datasets/rows
  template: qwen3_vl_nothink
  plot_loss: yes
  freeze_vision_tower: off
  save_strategy: epoch
  eval_strategy: no
  learning_rate: 1e-4
`,
      ),
    );
    expect(config.train).toMatchObject({
      plot_loss: true,
      freeze_vision_tower: false,
      eval_strategy: 'no',
      learning_rate: 1e-4,
      dataset: 'one,two',
    });
  });
});

describe('defaults', () => {
  test('stage, do_train and finetuning_type are filled in, pictures are looked for beside the rows', () => {
    expect(load({ train: least })).toMatchObject({
      name: 'inline',
      source: 'inline',
      train: {
        stage: 'sft',
        do_train: true,
        finetuning_type: 'lora',
        model_name_or_path: join(root, 'model/base'),
        dataset_dir: join(root, 'datasets/rows'),
        media_dir: join(root, 'datasets/rows'),
      },
      heldOut: { fraction: 0.1 },
      dataset: { onBadRow: 'fail', maxDropFraction: 0.01 },
      precision: 'auto',
      merge: { clamp: false },
      evaluate: { enabled: true, metric: 'exact', gates: { maxRegression: 0.02 } },
      deploy: { enabled: true, name: 'inline', runtime: 'process', host: '127.0.0.1', apiPort: 8000, pagePort: 7860 },
      notes: [],
    });
  });

  test('a candidate is swapped in without a person, and watched for a minute', () => {
    const { deploy } = load({ train: least });
    expect(deploy).toMatchObject({ approval: 'none', approvalHours: 72, bakeSeconds: 60, placement: 'auto' });
    expect(deploy).toMatchObject({ backend: 'auto', gpuMemoryShare: 0.85 });
  });

  test('the resolved config is plain JSON', () => {
    const config = load({ train: least });
    expect(JSON.parse(JSON.stringify(config))).toEqual(config);
  });

  test('a resolved config does not depend on the order of its lines', () => {
    const reversed = Object.fromEntries(Object.entries(least).reverse());
    expect(JSON.stringify(load({ train: reversed }))).toBe(JSON.stringify(load({ train: least })));
  });

  test.each([
    ['My Config_v2', 'my-config-v2'],
    ['---', 'model'],
    [`${'a'.repeat(39)}-b`, 'a'.repeat(39)],
  ])('the deployment of config %s is called %s', (name, deployment) => {
    write(`${name}.yaml`, `train: ${JSON.stringify(least)}`);
    expect(load(`${name}.yaml`).deploy.name).toBe(deployment);
  });
});

describe('what is legal and probably not meant is remarked on', () => {
  test.each<[object, RegExp]>([
    [{ save_strategy: 'no' }, /checkpoints are written every save_steps all the same/],
    [{ save_total_limit: 1 }, /two newest checkpoints/],
    [{ save_only_model: true }, /not the same training/],
    [{ neat_packing: true, cutoff_len: 2047 }, /8 does not divide/],
    [{ enable_liger_kernel: true }, /does nothing for Qwen3-VL/],
    [{ resume_from_checkpoint: true }, /resumes from its newest verified checkpoint/],
    [{ tokenized_path: 'saves/tokens' }, /by a digest/],
  ])('%j', (options, note) => {
    expect(load({ train: { ...least, ...options } }).notes).toEqual([expect.stringMatching(note)]);
  });

  test('an Instruct base with the template of Thinking models', () => {
    mkdirSync(join(root, 'model/Qwen3-VL-4B-Instruct'));
    const { notes } = load({
      train: { ...least, model_name_or_path: 'model/Qwen3-VL-4B-Instruct', template: 'qwen3_vl' },
    });
    expect(notes).toEqual([expect.stringContaining('empty <think> blocks')]);
  });
});

describe('which file is read', () => {
  const text = `train: ${JSON.stringify(least)}\n`;

  test.each(['mine', 'mine.yaml', 'configs/mine.yaml', './mine.yaml'])('%s names configs/mine.yaml', (input) => {
    write('mine.yaml', text);
    expect(load(input)).toMatchObject({ name: 'mine', source: join(root, 'configs/mine.yaml') });
  });

  test('a .yml, a folder below configs and an absolute path are found too', () => {
    mkdirSync(join(root, 'configs/team'));
    write('team/other.yml', text);
    expect(load('team/other').name).toBe('team-other');
    expect(load(join(root, 'configs/team/other.yml')).name).toBe('team-other');
  });

  test('one that is not there is answered with those that are', () => {
    write('mine.yaml', text);
    expect(refusal(() => load('mien')).message).toBe(
      `mien: there is no such config in ${root}/configs; did you mean mine? There are: mine`,
    );
  });

  test.each([
    '../outside/secret',
    '../outside/secret.yaml',
    'linked',
    'linkedfolder/secret',
    '/etc/passwd',
    '/etc/passwd.yaml',
  ])('%s leads out of the configs folder and is not read', (input) => {
    writeFileSync(join(root, 'outside/secret.yaml'), text);
    symlinkSync(join(root, 'outside/secret.yaml'), join(root, 'configs/linked.yaml'));
    symlinkSync(join(root, 'outside'), join(root, 'configs/linkedfolder'));
    expect(refusal(() => load(input)).message).toContain('configs are read only from');
  });

  test('a program that scores is taken from a file', () => {
    write('mine.yaml', `${text}evaluate: {scorer: [python3, judge.py, ""]}\n`);
    expect(load('mine').evaluate.scorer).toEqual(['python3', 'judge.py', '']);
  });

  test('a link that stays inside is followed', () => {
    write('mine.yaml', text);
    symlinkSync(join(root, 'configs/mine.yaml'), join(root, 'configs/alias.yaml'));
    expect(load('alias').name).toBe('mine');
  });

  test('a configs folder that is itself a link is fine', () => {
    write('mine.yaml', text);
    symlinkSync(join(root, 'configs'), join(root, 'linked-configs'));
    const options = { configsFolder: join(root, 'linked-configs'), root, allowedRoots: [root], modelsRoot: root };
    expect(loadConfig('mine', options).name).toBe('mine');
  });
});

describe('a base that is fetched', () => {
  const source = 'hf:Qwen/Qwen3-VL-4B-Instruct';
  const { model_name_or_path: _, ...rest } = least;

  test('goes into a folder of its name below the models root, which need not be there', () => {
    const config = load({ model: { source }, train: rest });
    expect(config.model).toEqual({ source });
    expect(config.train.model_name_or_path).toBe(join(root, 'model/Qwen--Qwen3-VL-4B-Instruct'));
  });

  test('goes into the same folder from either hub, and each revision into one of its own', () => {
    const folder = (model: object) => basename(load({ model, train: rest }).train.model_name_or_path);
    expect(folder({ source: source.replace('hf:', 'modelscope:') })).toBe('Qwen--Qwen3-VL-4B-Instruct');
    expect(folder({ source, revision: 'refs/pr/1' })).toBe('Qwen--Qwen3-VL-4B-Instruct--refs-pr-1');
  });

  test('goes where model_name_or_path says, inside the roots alone', () => {
    const into = (model_name_or_path: string) => load({ model: { source }, train: { ...rest, model_name_or_path } });
    expect(into('model/new/base').train.model_name_or_path).toBe(join(root, 'model/new/base'));
    expect(refusal(() => into('outside/base')).message).toContain('outside the folders that this worker may use');
    writeFileSync(join(root, 'model/file'), '');
    expect(refusal(() => into('model/file')).message).toContain('is a file, and it must be a folder');
  });

  test('is refused where the models root is no root', () => {
    expect(refusal(() => load({ model: { source }, train: rest }, ['datasets'])).message).toContain(
      'TEMPER_DATA_ROOTS',
    );
  });

  test('counts as an Instruct model by its source', () => {
    const { notes } = load({
      model: { source },
      train: { ...rest, template: 'qwen3_vl', model_name_or_path: 'model/base' },
    });
    expect(notes).toEqual([expect.stringContaining('empty <think> blocks')]);
  });

  test.each<[object, string]>([
    [{ source: 'Qwen/Qwen3-VL-4B-Instruct' }, "won't do; it takes hf:ORG/NAME for Hugging Face or modelscope:ORG/NAME"],
    [{ source: 'hf:Qwen' }, 'takes hf:ORG/NAME'],
    [{ source: 'hf:Qwen/../../etc' }, 'takes hf:ORG/NAME'],
    [{ source, revision: '--plan' }, 'model.revision: "--plan" won\'t do; it takes a branch, a tag or a commit'],
    [{ source, revsion: 'main' }, 'model.revsion is not a setting; did you mean model.revision?'],
    [{}, 'model.source is missing'],
  ])('from %j is refused with one sentence', (model, says) => {
    const { issues } = refusal(() => load({ model, train: rest }));
    expect(issues.map(({ message }) => message)).toEqual([expect.stringContaining(says)]);
  });

  test('is missed when the config names neither a source nor a folder', () => {
    expect(refusal(() => load({ train: rest })).message).toContain(
      'train.model_name_or_path is missing: the folder of the base, such as /data/model/qwen3-vl-4b-instruct, or else model.source',
    );
  });
});

describe('which paths may be used', () => {
  test.each<[string, object]>([
    ['an absolute path', { dataset_dir: '/etc' }],
    ['two dots', { dataset_dir: 'datasets/../outside/rows' }],
    ['a link', { dataset_dir: 'datasets/link' }],
    ['a folder behind a link', { media_dir: 'datasets/link/pictures' }],
    ['a name that only begins like a root', { dataset_dir: 'datasets-too/rows' }],
    ['a file to write', { profiler_output_dir: '/var/tmp/traces' }],
    ['one of several adapters', { adapter_name_or_path: '/etc' }],
    ["a DeepSpeed file's", { deepspeed: '/etc/passwd' }],
  ])('%s that leads out of the roots is refused, and the setting named', (_, options) => {
    symlinkSync(join(root, 'outside'), join(root, 'datasets/link'));
    const { message } = refusal(() => load({ train: { ...least, ...options } }));
    expect(message).toMatch(
      /^inline config: train\.\w+: .*outside the folders that this worker may use \(.*\/model, .*\/datasets\)/,
    );
    expect(message).toContain('TEMPER_DATA_ROOTS');
  });

  test('a path outside is refused alike whether it exists or not', () => {
    const answer = (path: string) =>
      refusal(() => load({ train: { ...least, dataset_dir: path } })).message.replaceAll(path, 'PATH');
    expect(answer('/etc/ssl')).toBe(answer('/etc/no-such-folder'));
  });

  test('a link between roots is followed to what it names', () => {
    symlinkSync(join(root, 'datasets/rows'), join(root, 'model/rows'));
    expect(load({ train: { ...least, dataset_dir: 'model/rows' } }).train.dataset_dir).toBe(
      join(root, 'datasets/rows'),
    );
  });

  test('roots that are links themselves hold what they lead to', () => {
    symlinkSync(join(root, 'datasets'), join(root, 'data'));
    expect(load({ train: least }, ['data', 'model']).train.dataset_dir).toBe(join(root, 'datasets/rows'));
  });

  test('a hub id is answered with how to download it', () => {
    const { message } = refusal(() => load({ train: { ...least, model_name_or_path: 'Qwen/Qwen3-VL-4B-Instruct' } }));
    expect(message).toContain(
      'Qwen/Qwen3-VL-4B-Instruct is a name on a hub, and the base must be a folder on this host',
    );
    expect(message).toContain('hf download Qwen/Qwen3-VL-4B-Instruct --local-dir');
  });

  test('a folder that merely looks like a hub id is used', () => {
    cpSync(join(root, 'model/base'), join(root, 'model/Qwen3-VL'), { recursive: true });
    expect(load({ train: { ...least, model_name_or_path: 'model/Qwen3-VL' } }).train.model_name_or_path).toBe(
      join(root, 'model/Qwen3-VL'),
    );
  });

  test('DeepSpeed settings may stand in the YAML itself', () => {
    const deepspeed = { zero_optimization: { stage: 3 } };
    expect(load({ train: { ...least, deepspeed } }).train.deepspeed).toEqual(deepspeed);
  });
});

describe('settings that take the place of what the file says', () => {
  const options = () => ({
    ...{ configsFolder: join(root, 'configs'), root, modelsRoot: join(root, 'model') },
    allowedRoots: [join(root, 'model'), join(root, 'datasets')],
  });

  beforeEach(() => {
    const train = Object.entries(least).map(([name, value]) => `  ${name}: ${value}\n`);
    write('short.yaml', `train:\n${train.join('')}  num_train_epochs: 3\n`);
  });

  test('are in the config, in a section that the file has and in one that it has not', () => {
    const config = loadConfig('short', options(), { 'train.num_train_epochs': 1, 'evaluate.gates.minScore': 0.9 });
    expect(config.train.num_train_epochs).toBe(1);
    expect(config.evaluate.gates.minScore).toBe(0.9);
    expect(config.name).toBe('short');
  });

  test.each<[Record<string, unknown>, RegExp]>([
    [{ 'train.num_train_epoch': 1 }, /^configs\/short.yaml: .*num_train_epochs/],
    [{ 'train.num_train_epochs': 'many' }, /^configs\/short.yaml: .*num_train_epochs/],
    [{ 'train.dataset.rows': 1 }, /train\.dataset is no section/],
    [{ '': 1 }, /names no setting/],
    [{ 'a.__proto__.b': 1 }, /names no setting/],
    [{ 'plan.hosts': ['a', 'b'] }, /plan\.rendezvous: is missing: name where the other hosts reach a/],
    [{ 'plan.rendezvous': 'a:29400' }, /plan\.rendezvous: .*plan\.hosts names none/],
    [{ 'plan.hosts': ['a', 'b', 'a'], 'plan.rendezvous': 'a:29400' }, /plan\.hosts: a is there twice/],
    [{ 'evaluate.scorer': ['rm'] }, /a program of the host is run only for a config file/],
    [{ evaluate: { scorer: ['rm'] } }, /a program of the host is run only for a config file/],
  ])('%j is refused with one sentence', (set, message) => {
    expect(refusal(() => loadConfig('short', options(), set)).message).toMatch(message);
  });
});

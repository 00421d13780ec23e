import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ConfigError } from '../../configs/config-error.ts';
import { loadConfig } from '../../configs/load.ts';

const root = mkdtempSync(join(tmpdir(), 'temper-bad-configs-'));

beforeAll(() => {
  for (const folder of ['base', 'rows', 'configs']) mkdirSync(join(root, folder));
  writeFileSync(join(root, 'file'), '');
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

const least = { model_name_or_path: 'base', dataset: 'rows', dataset_dir: 'rows', template: 'qwen3_vl_nothink' };
const hook = { format: 'slack', urlEnv: 'TEAM_HOOK' };

function refusal(input: string | object): ConfigError {
  try {
    loadConfig(input, {
      configsFolder: join(root, 'configs'),
      root,
      allowedRoots: [root],
      modelsRoot: join(root, 'models'),
    });
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('was accepted');
}

function refusalOfYaml(text: string): ConfigError {
  writeFileSync(join(root, 'configs/bad.yaml'), text);
  return refusal('bad');
}

test.each<[string, object, string]>([
  // Names
  ['train.lora_rnak', { lora_rnak: 8 }, 'is not an option of LLaMA-Factory 0.9.5; did you mean lora_rank?'],
  ['train.loraRank', { loraRank: 8 }, 'did you mean lora_rank?'],
  ['train.cutof_len', { cutof_len: 8 }, 'did you mean cutoff_len?'],
  ['train.evaluation_strategy', { evaluation_strategy: 'no' }, 'write eval_strategy'],
  ['train.lr', { lr: 1e-4 }, 'write learning_rate'],
  ['train.no_cuda', { no_cuda: true }, 'write use_cpu: true'],
  ['train.maxRows', { maxRows: 3 }, 'maxRows belongs under evaluate'],
  ['train.xyzzy', { xyzzy: 3 }, 'configs/schema.json lists all there are'],
  ['train.constructor', { constructor: 3 }, 'is not an option'],
  // Types
  ['train.lora_rank', { lora_rank: '8' }, 'it takes a whole number of at least 1: write lora_rank: 8 without quotes'],
  ['train.cutoff_len', { cutoff_len: '2_048' }, 'write cutoff_len: 2048 without quotes'],
  ['train.learning_rate', { learning_rate: '1e-4' }, 'write learning_rate: 1e-4 without quotes'],
  ['train.bf16', { bf16: 'True' }, 'write bf16: true without quotes'],
  ['train.plot_loss', { plot_loss: 1 }, 'takes true or false'],
  ['train.lora_rank', { lora_rank: 8.5 }, '8.5 is not a whole number'],
  ['train.lora_rank', { lora_rank: true }, "true won't do"],
  ['train.run_name', { run_name: 2024 }, 'write run_name: "2024"'],
  ['train.learning_rate', { learning_rate: null }, "leave the line out for LLaMA-Factory's default, 0.00005"],
  ['train.lora_target', { lora_target: [] }, 'takes names with commas between them, or a list of them'],
  ['train.lora_target', { lora_target: { q_proj: true } }, 'takes names with commas'],
  // Choices
  ['train.lr_scheduler_type', { lr_scheduler_type: 'cosin' }, 'did you mean cosine?'],
  ['train.flash_attn', { flash_attn: 'flash_attention_2' }, 'is not one of auto, disabled, sdpa, fa2, fa3'],
  ['train.eval_strategy', { eval_strategy: 'step' }, 'did you mean steps?'],
  // Numbers that LLaMA-Factory finds out late or never
  ['train.learning_rate', { learning_rate: -1e-4 }, 'takes a number above 0 and at most 1'],
  ['train.learning_rate', { learning_rate: 0 }, 'above 0'],
  ['train.learning_rate', { learning_rate: 100 }, 'at most 1'],
  ['train.learning_rate', { learning_rate: Infinity }, 'at most 1'],
  ['train.per_device_train_batch_size', { per_device_train_batch_size: 0 }, 'of at least 1'],
  ['train.gradient_accumulation_steps', { gradient_accumulation_steps: 0 }, 'of at least 1'],
  ['train.cutoff_len', { cutoff_len: 0 }, 'of at least 1'],
  ['train.cutoff_len', { cutoff_len: -2048 }, 'of at least 1'],
  ['train.num_train_epochs', { num_train_epochs: 0 }, 'above 0'],
  ['train.max_steps', { max_steps: 0 }, 'at least 1, or -1'],
  ['train.warmup_ratio', { warmup_ratio: 1.5 }, 'at least 0 and at most 1'],
  ['train.val_size', { val_size: 1.5 }, 'a share from 0 to below 1, or a whole number'],
  ['train.val_size', { val_size: -0.1 }, 'a share from 0'],
  ['train.save_steps', { save_steps: 0 }, 'a share above 0 to below 1, or a whole number'],
  ['train.save_steps', { save_steps: 100.5 }, 'or a whole number'],
  ['train.lora_dropout', { lora_dropout: 1 }, 'below 1'],
  ['train.image_max_pixels', { image_max_pixels: 0 }, 'of at least 1'],
  // What Temper doesn't do
  ['train.do_train', { do_train: false }, 'has trained nothing'],
  ['train.do_train', { do_train: 'False' }, 'has trained nothing'],
  ['train.stage', { stage: 'dpo' }, 'Temper fine-tunes on conversations'],
  ['train.finetuning_type', { finetuning_type: 'oft' }, "can't export"],
  ['train.template', { template: 'qwen3_vl_nothnk' }, 'did you mean qwen3_vl_nothink?'],
  ['train.template', { template: 'qwen2_vl' }, 'qwen3_vl_nothink is for the Instruct models'],
  ['train.pissa_init', { pissa_init: true }, 'it changes the base'],
  // Missing
  ['train.dataset', { dataset: undefined }, 'is missing: the name in dataset_info.json'],
  ['train.dataset', { dataset: '' }, 'is empty: the name in dataset_info.json'],
  ['train.template', { template: undefined }, 'is missing: qwen3_vl_nothink for an Instruct base'],
  ['train.model_name_or_path', { model_name_or_path: undefined }, 'is missing: the folder of the base'],
  ['train.dataset_dir', { dataset_dir: undefined }, 'is missing: the folder that holds dataset_info.json'],
  // Paths
  ['train.dataset_dir', { dataset_dir: 'nowhere' }, 'does not exist on this host'],
  ['train.dataset_dir', { dataset_dir: 'file' }, 'is a file, and it must be a folder'],
  ['train.deepspeed', { deepspeed: 'rows' }, 'is a folder, and it must be a file'],
  ['train.dataset_dir', { dataset_dir: 'ONLINE' }, 'reads rows from a hub'],
  ['train.model_name_or_path', { model_name_or_path: '~/base' }, 'write the whole path'],
  // Together
  ['train.fp16', { fp16: true, bf16: true }, 'bf16 and fp16 are both true'],
  ['train.eval_strategy', { eval_strategy: 'steps' }, 'add val_size: 0.1'],
  ['train.val_size', { val_size: 0.1, eval_dataset: 'other' }, 'not both'],
  ['train.dataset', { dataset: 'a, b,a' }, 'a is named twice'],
  ['train.dataset', { dataset: 'a,' }, 'has a comma too many'],
  ['train.image_max_pixels', { image_max_pixels: 512 }, 'is smaller than image_min_pixels, 1024'],
  ['train.streaming', { streaming: true }, 'is tokenized once before the training'],
  ['train.mix_strategy', { mix_strategy: 'interleave_under' }, 'num_samples in dataset_info.json'],
  ['train.interleave_probs', { interleave_probs: '0.5' }, 'belongs to mix_strategy'],
  ['train.mask_history', { mask_history: true, train_on_prompt: true }, 'leave one out'],
  ['train.eval_dataset', { eval_dataset: 'a,a' }, 'a is named twice'],
  ['train.eval_on_each_dataset', { eval_dataset: 'a,b', eval_on_each_dataset: true }, 'are one file'],
  ['train.add_tokens', { finetuning_type: 'full', add_tokens: ['<a>'] }, 'write one text with commas'],
  ['train.report_to', { report_to: 'wandbb' }, 'is not one of'],
  ['train.quantization_bit', { quantization_bit: 5 }, 'neither 4 nor 8'],
  ['train.use_dora', { finetuning_type: 'full', use_dora: true }, 'is for LoRA alone'],
  ['train.use_galore', { use_galore: true }, 'does not go with LoRA'],
  ['train.do_predict', { do_predict: true, val_size: 0.1 }, 'predict_with_generate'],
  ['train.quantization_bit', { finetuning_type: 'full', quantization_bit: 4 }, 'only LoRA'],
  ['train.adapter_name_or_path', { adapter_name_or_path: 'base,rows' }, 'temper merge'],
  ['train.adapter_name_or_path', { adapter_name_or_path: 'base', create_new_adapter: true }, 'temper merge'],
  ['train.add_tokens', { add_tokens: '<a>' }, "doesn't hold new tokens' embeddings"],
  ['train.adapter_folder', { adapter_folder: '../../etc' }, 'inside the adapter'],
  ['train.freeze_language_model', { freeze_language_model: true }, 'everything is frozen'],
  ['train.load_best_model_at_end', { load_best_model_at_end: true }, 'needs eval_strategy: steps'],
  ['train.dataloader_prefetch_factor', { dataloader_prefetch_factor: 2 }, 'dataloader_num_workers'],
])('%s: %j is refused by name, with the fix', (path, options, fix) => {
  const { message, issues } = refusal({ train: { ...least, ...options } });
  expect(issues.map((issue) => issue.path)).toEqual([path]);
  expect(message).toContain(`inline config: ${path}`);
  expect(message).toContain(fix);
});

test.each<[string, object, string]>([
  ['trian', { trian: {} }, 'did you mean train?'],
  ['lora_rank', { lora_rank: 8 }, 'lora_rank belongs under train'],
  ['apiPort', { apiPort: 8 }, 'apiPort belongs under deploy'],
  ['deploy.apiPrt', { deploy: { apiPrt: 1 } }, 'did you mean deploy.apiPort?'],
  ['deploy.api_port', { deploy: { api_port: 1 } }, 'did you mean deploy.apiPort?'],
  ['deploy.color', { deploy: { color: 1 } }, 'known here: enabled, name'],
  ['deploy.apiPort', { deploy: { apiPort: '8000' } }, 'write 8000 without quotes'],
  ['deploy.apiPort', { deploy: { apiPort: 70000 } }, 'at most 65535'],
  ['deploy.pagePort', { deploy: { apiPort: 7860 } }, "7860 is the API's port too"],
  ['deploy.apiKeyEnv', { deploy: { host: '0.0.0.0' } }, 'wants a key'],
  ['deploy.apiKeyEnv', { deploy: { apiKeyEnv: 'sk-12345' } }, 'and never the key itself'],
  ['deploy.name', { deploy: { name: '../x' } }, 'lower-case letters, digits and -'],
  ['deploy.runtime', { deploy: { runtime: 'podman' } }, 'is not one of process, docker'],
  ['deploy.image', { deploy: { image: '--privileged evil' } }, 'takes the name of an image'],
  ['precision', { precision: 'float16' }, 'is not one of auto, fp16, bf16'],
  ['heldOut.fraction', { heldOut: { fraction: 0.9 } }, 'at most 0.5'],
  ['dataset.onBadRow', { dataset: { onBadRow: 'skip' } }, 'is not one of fail, drop'],
  ['dataset', { dataset: 'rows' }, 'it takes a block of settings'],
  ['merge', { merge: null }, 'is empty'],
  ['evaluate.maxRows', { evaluate: { maxRows: 0 } }, 'at least 1'],
  ['evaluate.metric', { evaluate: { metric: 'anl' } }, 'did you mean anls?'],
  ['evaluate.gates.minScor', { evaluate: { gates: { minScor: 0.9 } } }, 'did you mean evaluate.gates.minScore?'],
  ['evaluate.gates.colour', { evaluate: { gates: { colour: 1 } } }, 'known here: minScore, maxRegression'],
  ['evaluate.minScore', { evaluate: { minScore: 0.9 } }, 'minScore belongs under evaluate.gates'],
  ['gates', { gates: {} }, 'gates belongs under evaluate'],
  ['evaluate.gates.minScore', { evaluate: { gates: { minScore: 90 } } }, 'at most 1'],
  ['evaluate.gates.maxRegression', { evaluate: { gates: { maxRegression: -0.1 } } }, 'at least 0'],
  ['evaluate.gates.maxMemoryGiB', { evaluate: { gates: { maxMemoryGiB: 0 } } }, 'more than 0'],
  [
    'evaluate.gates.minScore',
    { evaluate: { enabled: false, gates: { minScore: 0.9 } } },
    'evaluate.enabled is false: set it to true; or leave it out',
  ],
  [
    'evaluate.gates.maxLatencyP95Ms',
    { heldOut: { fraction: 0 }, evaluate: { gates: { maxLatencyP95Ms: 900 } } },
    'heldOut.fraction is 0: set it to 0.1; or leave it out',
  ],
  ['evaluate.scorer', { evaluate: { scorer: ['./judge.py'] } }, 'only for a config file below the configs folder'],
  ['deploy.approval', { deploy: { approval: 'manual', enabled: false } }, 'deploy.enabled is false'],
  ['deploy.approval', { deploy: { approval: 'auto' } }, 'is not one of none, manual'],
  ['deploy.approvalHours', { deploy: { approvalHours: 9000 } }, 'at most 8760'],
  ['deploy.bakeSeconds', { deploy: { bakeSeconds: -1 } }, 'at least 0'],
  ['deploy.backend', { deploy: { backend: 'vlm' } }, 'did you mean vllm?'],
  ['deploy.gpuMemoryShare', { deploy: { gpuMemoryShare: 85 } }, 'at most 0.95'],
  ['deploy.placement', { deploy: { placement: 'besides' } }, 'did you mean beside?'],
  ['notify', { notify: { format: 'slack', urlEnv: 'HOOK' } }, 'it takes a list'],
  ['notify.0.format', { notify: [{ format: 'slak', urlEnv: 'HOOK' }] }, 'did you mean slack?'],
  ['notify.0.urlEnv', { notify: [{ format: 'slack' }] }, 'is missing'],
  ['notify.0.urlEv', { notify: [{ format: 'slack', urlEnv: 'HOOK', urlEv: 'X' }] }, 'did you mean notify.0.urlEnv?'],
  ['notify.1.on.0', { notify: [hook, { ...hook, on: ['fail'] }] }, 'is not one of deployed, finished'],
  ['notify.0.on', { notify: [{ ...hook, on: [] }] }, 'at least 1'],
  ['notify.0.secretEnv', { notify: [{ ...hook, secretEnv: 'HOOK_SECRET' }] }, 'slack and wecom sign nothing'],
  ['limits.trainingHours', { limits: { trainingHours: '72h' } }, 'it takes a number'],
])('%s: %j is refused by name, with the fix', (path, sections, fix) => {
  const { message, issues } = refusal({ train: least, ...sections });
  expect(issues.map((issue) => issue.path)).toEqual([path]);
  expect(message).toContain(path);
  expect(message).toContain(fix);
});

test('a secret is refused without being repeated', () => {
  const { message } = refusal({ train: { ...least, hub_token: 'hf_verysecret' } });
  expect(message).toContain("set HF_TOKEN in the worker's environment instead");
  expect(message).not.toContain('verysecret');
});

test.each([
  ['notify.0.urlEnv', { notify: [{ format: 'slack', urlEnv: 'https://hooks.slack.com/services/verysecret' }] }],
  ['notify.0.secretEnv', { notify: [{ format: 'feishu', urlEnv: 'HOOK', secretEnv: 'verysecret' }] }],
  ['deploy.apiKeyEnv', { deploy: { apiKeyEnv: 'sk-verysecret' } }],
])('a secret in the place of the name of its variable, %s, is not repeated either', (path, sections) => {
  const { message } = refusal({ train: least, ...sections });
  expect(message).toContain(`${path}: what stands there won't do; it takes the name of an environment variable`);
  expect(message).not.toContain('verysecret');
});

describe('in a file', () => {
  test('all problems come at once, in order, each with its line and column', () => {
    const error = refusalOfYaml(`# mine
train:
  model_name_or_path: base
  dataset: rows
  dataset_dir: nowhere
  lora_rnak: 8
  learning_rate: "1e-4"
  bf16: true
  fp16: true
deploy:
  prot: 1
`);
    expect(error.name).toBe('ConfigError');
    expect(error.message.split('\n')).toEqual([
      'The config has 6 problems:',
      '- configs/bad.yaml:2:1: train.template is missing: qwen3_vl_nothink for an Instruct base, qwen3_vl for a Thinking one',
      expect.stringMatching(
        /^- configs\/bad\.yaml:5:3: train\.dataset_dir: ".*\/nowhere" does not exist on this host$/,
      ),
      '- configs/bad.yaml:6:3: train.lora_rnak is not an option of LLaMA-Factory 0.9.5; did you mean lora_rank?',
      '- configs/bad.yaml:7:3: train.learning_rate: "1e-4" is text, and it takes a number above 0 and at most 1: write learning_rate: 1e-4 without quotes',
      expect.stringMatching(/^- configs\/bad\.yaml:9:3: train\.fp16: bf16 and fp16 are both true/),
      expect.stringMatching(/^- configs\/bad\.yaml:11:3: deploy\.prot is not a setting; known here: /),
    ]);
    expect(error.issues[2]).toEqual({ path: 'train.lora_rnak', message: expect.any(String), line: 6, column: 3 });
  });

  test.each([
    ['a scorer in one piece', 'scorer: python3 judge.py', 'it takes a list'],
    ['a scorer of nothing', 'scorer: []', 'takes at least 1'],
    ['a number among its arguments', 'scorer: [judge, 3]', "evaluate.scorer.1: 3 won't do; it takes text"],
  ])('%s is refused', (_, scorer, fix) => {
    expect(refusalOfYaml(`train: ${JSON.stringify(least)}\nevaluate:\n  ${scorer}\n`).message).toContain(fix);
  });

  test.each([
    ['a duplicate key', 'train:\n  bf16: true\n  bf16: false\n', /^configs\/bad\.yaml:3:3: this key is given twice/],
    ['a tab', 'train:\n\tbf16: true\n', /^configs\/bad\.yaml:2:1: YAML is indented by spaces/],
    ['an open bracket', 'train: [1,\n', /^configs\/bad\.yaml:\d+:\d+: not readable as YAML/],
    ['two documents', 'train: {}\n---\ntrain: {}\n', /^configs\/bad\.yaml:\d+:\d+: not readable as YAML/],
    ['an alias to nothing', 'train: *nothing\n', /not readable as YAML/],
    ['nothing', '', /^configs\/bad\.yaml(:1:1)?: train is missing/],
    ['a list', '- train\n', /it takes a block of settings/],
    ['text', 'train\n', /it takes a block of settings/],
    ['a tag of its own', 'train: !!python/object:os.system {}\n', /not readable as YAML/],
    ['bytes that are not UTF-8', Buffer.from([0x74, 0xff, 0xfe]), /is not UTF-8 text/],
    [
      'a bomb of aliases',
      `a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n`,
      /not readable as YAML/,
    ],
  ])('%s is answered with where it is', (_, text, answer) => {
    expect(refusalOfYaml(text as string).message).toMatch(answer);
  });

  test('a key of __proto__ is a key like any other', () => {
    expect(refusalOfYaml('train:\n  __proto__: {lora_rank: 8}\n').message).toContain(
      'train.__proto__ is not an option',
    );
  });
});

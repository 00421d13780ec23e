import * as z from 'zod';
import { notifyEntry } from './notify-schema.ts';
import { trainSchema, type TrainOptions } from './train-options.ts';

const model = z.strictObject({
  source: z
    .string()
    .regex(
      /^(hf|modelscope):[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/,
      'takes hf:ORG/NAME for Hugging Face or modelscope:ORG/NAME, such as hf:Qwen/Qwen3-VL-4B-Instruct',
    )
    .describe('hf:ORG/NAME or modelscope:ORG/NAME; fetched once, before anything else is checked'),
  revision: z
    .string()
    .regex(/^[A-Za-z0-9][\w./-]*$/, 'takes a branch, a tag or a commit, such as main')
    .optional()
    .describe("Branch, tag or commit. Default: the hub's default branch (main, on ModelScope master)"),
});

const heldOut = z.strictObject({
  fraction: z
    .number()
    .min(0)
    .max(0.5)
    .default(0.1)
    .describe('Share of the rows that are never trained on, chosen by a hash of what is in a row; 0 holds none out'),
});

const dataset = z.strictObject({
  onBadRow: z
    .enum(['fail', 'drop'])
    .default('fail')
    .describe('fail: one bad row ends the run with the list of all of them; drop: leave bad rows out, say which'),
  maxDropFraction: z
    .number()
    .min(0)
    .max(1)
    .default(0.01)
    .describe('With onBadRow drop, the run still fails when more than this share of the rows is bad'),
});

const plan = z.strictObject({
  globalBatchSize: z
    .int()
    .min(1)
    .max(65536)
    .optional()
    .describe(
      'Rows of an optimizer step over all GPUs. Default: per_device_train_batch_size × gradient_accumulation_steps × GPUs where train has both, else 16',
    ),
  gpus: z.int().min(1).max(1024).optional().describe('At most so many GPUs train. Default: as many as make it faster'),
  hosts: z
    .array(z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, "takes hosts' names, as `temper hosts` lists them"))
    .min(2, 'takes two hosts or more; leave it out for a training on one')
    .max(64)
    .optional()
    .describe(
      'Hosts that train together, each with as many GPUs as the first, over a runs folder on storage that they share; the run itself is on the first',
    ),
  rendezvous: z
    .string()
    .regex(/^[A-Za-z0-9.-]+:[1-9]\d{0,4}$/, 'takes ADDRESS:PORT of the first host, such as 10.0.0.5:29400')
    .optional()
    .describe(
      'With hosts: where the others reach the first one, in a private network, since it asks nobody for a password',
    ),
  gpuHourPrice: z
    .number()
    .positive()
    .optional()
    .describe('What an hour of one GPU costs, in your currency, for the cost that a plan states'),
});

const merge = z.strictObject({
  clamp: z
    .boolean()
    .default(false)
    .describe('fp16: set weights that overflow to the largest number instead of failing'),
});

const gates = z.strictObject({
  minScore: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .describe('The mean of the metric over the held-out rows must be at least this. Default: no such gate'),
  maxRegression: z
    .number()
    .min(0)
    .max(1)
    .default(0.02)
    .describe("The mean may lie at most so much below the champion's on the same rows; without a champion it passes"),
  maxLatencyP95Ms: z
    .number()
    .positive()
    .optional()
    .describe('95 % of the held-out answers must come within so many milliseconds. Default: no such gate'),
  maxMemoryGiB: z
    .number()
    .positive()
    .optional()
    .describe('The candidate may take at most so much memory while it is served. Default: no such gate'),
});

const evaluate = z.strictObject({
  enabled: z.boolean().default(true).describe('Compare base and fine-tuned model on the held-out rows'),
  maxRows: z.int().min(1).default(200).describe('At most so many held-out rows are asked'),
  metric: z
    .enum(['exact', 'contains', 'anls', 'fields'])
    .default('exact')
    .describe(
      "exact: the answer is the row's, but for white space; contains: the row's answer is in it; anls: edit similarity whatever the case, 0 from half wrong on; fields: share of the fields of a JSON answer that are right",
    ),
  scorer: z
    .array(z.string())
    .min(1)
    .optional()
    .describe(
      "Program and arguments that score instead of the metric, run without a shell in the checkout: each row comes on stdin as a line {question, images, expected, answer} of JSON, and it prints a number from 0 to 1 a line for each, in order. Only in a config file on the worker's host",
    ),
  maxNewTokens: z.int().min(1).max(8192).default(256).describe('Longest answer that is waited for'),
  gates: gates.prefault({}).describe('What the fine-tuned model has to keep to before it replaces what is in service'),
});

const port = z.int().min(0).max(65535);

const deploy = z.strictObject({
  enabled: z.boolean().default(true).describe('Serve the model when it is done'),
  name: z
    .string()
    .regex(
      /^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/,
      'takes at most 40 lower-case letters, digits and -, no - at either end',
    )
    .optional()
    .describe(
      "Name of the deployment and of the served model; a later run of the same name takes its place. Default: the config's name",
    ),
  runtime: z
    .enum(['process', 'docker'])
    .default('process')
    .describe("process: on this host, outliving the worker; docker: a container of the host's Docker engine"),
  backend: z
    .enum(['auto', 'huggingface', 'vllm'])
    .default('auto')
    .describe(
      'What generates the answers: huggingface one at a time, vllm side by side; auto is vllm where it is installed for the runtime and the GPU has compute capability 8.0, else huggingface',
    ),
  gpuMemoryShare: z
    .number()
    .min(0.05)
    .max(0.95)
    .default(0.85)
    .describe("With backend vllm: it takes this share of what is free of the GPU's memory when it starts"),
  image: z
    .string()
    .regex(/^[\w.-]+(:\d+)?(\/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?$/, 'takes the name of an image')
    .default('qwen3-vl-webui:latest')
    .describe('With runtime docker: the image, built from serving/Dockerfile'),
  host: z
    .string()
    .regex(/^[A-Za-z0-9.:-]+$/, 'takes an address such as 127.0.0.1')
    .default('127.0.0.1')
    .describe('Address to bind; one beyond loopback needs apiKeyEnv'),
  apiPort: port.default(8000).describe('Port of the OpenAI-compatible API; 0 is any free one'),
  pagePort: port.default(7860).describe('Port of the chat page; 0 is any free one'),
  apiKeyEnv: z
    .string()
    .regex(
      /^[A-Z_][A-Z0-9_]*$/,
      'takes the name of an environment variable, such as TEMPER_API_KEY, and never the key itself',
    )
    .optional()
    .describe("Name of the variable in the worker's environment that holds the API's key (never the key itself)"),
  approval: z
    .enum(['none', 'manual'])
    .default('none')
    .describe('manual: a candidate that passed its gates waits for a person to approve it before it is swapped in'),
  approvalHours: z
    .number()
    .positive()
    .max(8760)
    .default(72)
    .describe('With approval manual: a candidate that nobody has approved for so long is not swapped in'),
  bakeSeconds: z
    .number()
    .min(0)
    .max(86400)
    .default(60)
    .describe('Watched for so long after the swap; rolled back by itself on failure'),
  placement: z
    .enum(['auto', 'beside', 'in-place'])
    .default('auto')
    .describe(
      'Where the candidate runs until it is swapped in: beside the champion, or in its place with requests held meanwhile; auto decides by measured memory',
    ),
});

const limits = z.strictObject({
  hostHours: z
    .number()
    .positive()
    .max(8760)
    .default(72)
    .describe(
      "When the run's host has been away for so long, the run goes on on another one that has its directory, or fails saying what is lost",
    ),
  trainingHours: z
    .number()
    .positive()
    .max(8760)
    .default(168)
    .describe('Training that takes longer than this in all fails; its checkpoints stay'),
  hangMinutes: z
    .number()
    .positive()
    .optional()
    .describe(
      "Without a step for so long the trainer counts as hung and is restarted from its checkpoint. Default: by the trainer's own pace",
    ),
});

/** What a config file may say; a key that is not here is an error. */
export const configSchema = z
  .strictObject({
    model: model
      .optional()
      .describe('Where the base comes from; without it train.model_name_or_path is a folder that is there already'),
    train: trainSchema,
    heldOut: heldOut.prefault({}).describe('Rows to judge by'),
    dataset: dataset.prefault({}).describe('What to do about bad rows'),
    precision: z
      .enum(['auto', 'fp16', 'bf16'])
      .default('auto')
      .describe(
        'Type of the merged and served weights; auto: bf16 where the GPU has it (compute capability 8.0), else fp16',
      ),
    plan: plan
      .prefault({})
      .describe("How the training is cut for this host's GPUs, where train leaves it open; see temper plan"),
    merge: merge.prefault({}).describe('How the adapter is merged into the base'),
    evaluate: evaluate.prefault({}).describe('How base and fine-tuned model are compared'),
    deploy: deploy.prefault({}).describe('Where the model is served'),
    limits: limits.prefault({}).describe('When training is given up'),
    notify: z
      .array(notifyEntry)
      .max(20)
      .optional()
      .describe("Who is told how a run ends; [] for nobody. Default: the worker's TEMPER_NOTIFY_URL, if it is set"),
  })
  .describe('A fine-tuning run of Temper');

export type Config = z.infer<typeof configSchema>;

/** A model on a hub. */
export type ModelSource = z.infer<typeof model>;

/** LLaMA-Factory's options with defaults and absolute paths, without those that Temper decides. */
export type ResolvedTrainOptions = Omit<
  TrainOptions,
  'dataset' | 'eval_dataset' | 'dataset_dir' | 'media_dir' | 'stage' | 'do_train'
> & {
  stage: 'sft';
  do_train: true;
  /** With `model.source` the folder that the base is fetched into, or lies in already. */
  model_name_or_path: string;
  /** Names in `dataset_info.json`, with commas between them. */
  dataset: string;
  eval_dataset?: string;
  dataset_dir: string;
  /** Where a row's pictures are looked for first. */
  media_dir: string;
};

/** A config as the stages get it: plain JSON, nothing left to decide but what only the host knows. */
export type ResolvedConfig = Omit<Config, 'train' | 'deploy'> & {
  /** The file's name without its ending, or `inline`. */
  name: string;
  /** The file's absolute path, or `inline`. */
  source: string;
  train: ResolvedTrainOptions;
  deploy: Config['deploy'] & { name: string };
  /** What is done otherwise than the config says, one sentence each. */
  notes: string[];
};

import { Command, Option } from 'commander';
import { jsonSchemaText } from '../configs/json-schema.ts';
import { errorNameOf, messageOf } from '../host/errors.ts';
import { several } from './changes-of.ts';
import { doctor } from './check.ts';
import { serveCodec } from './codec.ts';
import { completions } from './completions.ts';
import { fp16, merge } from './convert.ts';
import { convertDataset, datasetFormats } from './dataset.ts';
import { demo } from './demo.ts';
import { listDeployed, rollback, undeploy } from './deployments.ts';
import { listHosts } from './hosts.ts';
import { ledger } from './ledger.ts';
import { init } from './init.ts';
import { logs } from './logs.ts';
import { notify } from './notify.ts';
import { plan } from './plan.ts';
import { report } from './report.ts';
import { runs } from './runs.ts';
import { schedule } from './schedule.ts';
import { start } from './start.ts';
import { trace } from './trace.ts';
import { down, up } from './up.ts';
import { validate } from './validate.ts';
import { watch } from './watch/watch.ts';
import { work } from './worker.ts';

const SET = 'in place of what the config says, such as train.num_train_epochs=1; may be given several times';

/** The `temper` command. Exit codes: 0 done, 1 failed, 2 wrong arguments or config, 3 a run's model was not taken. */
export async function main(argv: string[]): Promise<void> {
  const program = makeProgram();
  try {
    await program.parseAsync(argv);
  } catch (error) {
    console.error(errorNameOf(error) === undefined ? error : `${errorNameOf(error)}: ${messageOf(error)}`);
    process.exit(1);
  }
}

/** All commands with their options, before any is run. */
export function makeProgram(): Command {
  const program = new Command('temper').description(
    'Fine-tune Qwen3-VL with LLaMA-Factory, durably, and put it into service.',
  );
  // Before the commands, which take it over when they are made.
  program.exitOverride((stop) => process.exit(stop.exitCode === 0 ? 0 : 2));
  program
    .command('up')
    .description("Start the embedded Temporal server and this host's worker; Ctrl-C stops both, a training goes on.")
    .option('--port <port>', 'port of the Temporal server', '7233')
    .option('--ui-port <port>', 'port of the Temporal UI', '8233')
    .action(up);
  program.command('down').description('Stop the `temper up` that runs; a training goes on.').action(down);
  program
    .command('worker')
    .description("Start this host's worker alone, on the server that TEMPORAL_ADDRESS names.")
    .action(work);
  program
    .command('start')
    .description('Start a run of a config, and see that its config is taken.')
    .argument('<config>', "name or path of a YAML below the worker's configs folder")
    .option('--name <run>', "the run's name; default: the config's and the time")
    .option('--set <path=value>', SET, several, [])
    .option('--host <name>', 'the host to run on, as `temper hosts` names it; default: the one that fits best')
    .option('--only-if-changed', 'end at once when rows and config are those of the last run')
    .option('--continue-from <start>', 'base, or champion: train on from the adapter in service', 'base')
    .option('--watch', 'show the run until it has ended')
    .option('--json', 'as JSON')
    .action(start);
  program
    .command('watch')
    .description('Show a run live; Ctrl-C leaves it alone. Exit code 1 when it failed, 3 when its model was not taken.')
    .argument('[run]', 'the run; default: the newest')
    .option('--json', 'a line of JSON for each change')
    .action(watch);
  program
    .command('runs')
    .description('List the newest runs.')
    .option('--limit <n>', 'so many', '20')
    .option('--json', 'as JSON')
    .action(runs);
  program
    .command('logs')
    .description("Print the end of the trainer's log of a run on this host.")
    .argument('<run>', 'the run')
    .option('-n, --lines <n>', 'so many lines', '100')
    .option('-f, --follow', 'go on with what is added, through resumes, until the run has ended')
    .action(logs);
  program
    .command('report')
    .description("Write a run's report.html anew from its directory here, as it is now, and print where it is.")
    .argument('<run>', 'the run, which may be under way')
    .option('--out <file>', "where to write it; default: the run's directory")
    .option('--open', 'show it in the browser')
    .option('--json', 'as JSON')
    .action(report);
  program
    .command('hosts')
    .description('List the hosts whose workers are there: their GPUs, what they train and what they serve.')
    .option('--json', 'as JSON')
    .action(listHosts);
  program
    .command('codec')
    .description('Decode encrypted payloads for the Temporal CLI and UI, on loopback, until Ctrl-C.')
    .option('--port <port>', 'where to listen; 0 is any free one', '8888')
    .option('--origin <origin>', "the UI's address", 'http://localhost:8233')
    .action(serveCodec);
  program
    .command('demo')
    .description('Run the whole pipeline on a tiny Qwen3-VL, then stop all that was started.')
    .option('--keep', 'leave server, worker and the deployed model up')
    .action(demo);
  program
    .command('doctor')
    .description('Check this host for a config: GPUs, disk, ports, Python packages, base.')
    .argument('[config]', 'name or path of a YAML below the configs folder', 'demo')
    .option('--set <path=value>', SET, several, [])
    .option('--json', 'as JSON')
    .action(doctor);
  program
    .command('validate')
    .description(
      "Judge every row of a config's dataset as LLaMA-Factory would treat it; in its own YAML the options too.",
    )
    .argument('<config>', "name or path of a config, or path of LLaMA-Factory's own training YAML")
    .option('--json', 'as JSON')
    .action(validate);
  program
    .command('dataset')
    .description('Make datasets.')
    .command('convert')
    .description(
      "Make a dataset of LLaMA-Factory of pictures with texts, registered in its folder's dataset_info.json.",
    )
    .argument('<source>', 'the file with the rows')
    .argument('<out>', "the dataset's folder; made if it is missing")
    .addOption(new Option('--from <format>', 'what the file is; default: as it looks').choices(datasetFormats))
    .option('--name <name>', "the dataset's name; default: the folder's")
    .addOption(
      new Option('--pictures <how>', 'copy or link them into the folder, or keep them where they are')
        .choices(['copy', 'link', 'keep'])
        .default('copy'),
    )
    .option('--pictures-from <folder>', "where relative paths lead from; default: the source's folder")
    .option('--prompt <text>', 'the question where the format has none', 'Describe the picture.')
    .option('--picture-column <name>', 'of a CSV; default: by its header')
    .option('--text-column <name>', 'of a CSV: the answers')
    .option('--question-column <name>', 'of a CSV')
    .option('--first-caption', 'of COCO: only the first caption of each picture')
    .option('--skip-bad', 'leave bad rows out and list them in skipped.jsonl')
    .option('--replace', 'write over the dataset of that name')
    .option('--json', 'as JSON')
    .action(convertDataset);
  program
    .command('init')
    .description('Write a config; asks for what is not given.')
    .argument('[name]', "the config's name")
    .option('--base <base>', 'a folder, hf:ORG/NAME or modelscope:ORG/NAME')
    .option('--dataset <name>', "the dataset's name in dataset_info.json")
    .option('--dataset-dir <folder>', 'the folder of that file')
    .addOption(new Option('--method <method>', 'how to fine-tune').choices(['lora', 'full']))
    .option('--deploy <name>', 'the name to serve the model by, or no')
    .option('--force', 'write over a config of that name')
    .option('--json', 'as JSON')
    .action(init);
  program
    .command('plan')
    .description("Show how a run would train on this host's GPUs, why, and what it would take; starts nothing.")
    .argument('<config>', 'name or path of a YAML below the configs folder')
    .option('--gpu <card>', 'plan for such GPUs instead, such as "RTX 4090"')
    .option('--gpus <n>', 'how many of them', '1')
    .option('--set <path=value>', SET, several, [])
    .option('--json', 'as JSON')
    .action(plan);
  program
    .command('notify')
    .description("Send each receiver of a config's notifications a trial, and show what it answers.")
    .argument('<config>', 'name or path of a YAML below the configs folder')
    .option('--event <event>', 'what it tells of, such as deployed or awaitingApproval', 'finished')
    .option('--json', 'as JSON')
    .action(notify);
  program
    .command('schedule')
    .description(
      'Have a config train again and again, only when rows or config have changed; changes the one there is.',
    )
    .argument('<config>', 'name or path of a YAML below the configs folder')
    .requiredOption('--cron <when>', 'such as "0 2 * * Sun"')
    .option('--id <name>', "the schedule's ID, which its runs are named by; default: the config's name")
    .option('--time-zone <zone>', 'such as Asia/Shanghai; default: UTC')
    .option('--overlap <policy>', 'while a run goes on: skip the next, or buffer-one to follow it', 'skip')
    .option('--catch-up <time>', 'runs that an outage prevented are made up for when it was no longer than this', '6h')
    .option('--min-new-rows <n>', 'train only when so many rows are new, or the config is')
    .option('--continue-from <start>', 'base, or champion: train on from the adapter in service', 'base')
    .option('--always', 'train even if rows and config are those of the last run')
    .option('--keep-on-failure', 'go on after a failed run; by default the schedule pauses')
    .option('--set <path=value>', SET, several, [])
    .option('--json', 'as JSON')
    .action(schedule);
  program
    .command('merge')
    .description('Merge a LoRA adapter into its base in one streaming pass.')
    .argument('<base>')
    .argument('<adapter>')
    .argument('<out>')
    .option('--dtype <type>', 'fp16, bf16, or base for its own', 'base')
    .option('--device <device>', 'auto, cpu or cuda', 'auto')
    .option('--clamp', 'set what overflows to the largest number instead of failing')
    .option('--json', 'as JSON')
    .action(merge);
  program
    .command('fp16')
    .description('Make a Qwen-VL folder fit for GPUs without bfloat16, beside it unless told otherwise.')
    .argument('<model-dir>')
    .option('--out <dir>', 'where to write')
    .option('--in-place', 'change the folder itself')
    .option('--rows <file>', 'rows (JSON lines) whose answers in fp16 must be those in fp32')
    .option('--clamp', 'set what overflows to the largest number instead of failing')
    .option('--json', 'as JSON')
    .action(fp16);
  program
    .command('schema')
    .description('Print the JSON schema of the configs, for editors.')
    .action(() => void process.stdout.write(jsonSchemaText()));
  program
    .command('ledger')
    .description('Show where the time of all trainings went, or of one: productive seconds, and those lost by cause.')
    .argument('[run]', 'the run whose training is wanted, with each of its starts')
    .option('--json', 'as JSON')
    .action(ledger);
  program
    .command('deployments')
    .description("List the models in service, or one deployment's history.")
    .argument('[name]', 'the deployment whose history is wanted')
    .option('--json', 'as JSON')
    .action(listDeployed);
  program
    .command('rollback')
    .description('Return a deployment to the champion before; it is watched as any new one.')
    .argument('<name>', 'the deployment')
    .option('--to <run>', 'the run whose model is wanted instead')
    .option('--by <who>', 'who wants it; default: this user')
    .option('--why <reason>', 'for the history')
    .option('--json', 'as JSON')
    .action(rollback);
  program
    .command('undeploy')
    .description('Take a model out of service.')
    .argument('<name>', 'the deployment')
    .option('--json', 'as JSON')
    .action(undeploy);
  program
    .command('trace')
    .description(
      'Show which run a served model is from, and the rows it was trained on; exit code 1 if a link is broken.',
    )
    .argument('<served>', 'a container, or the address of an API or chat page')
    .option('--verify', 'also read the weights, rows and pictures again')
    .option('--api-key-env <variable>', "the environment variable that holds the API's key")
    .option('--json', 'as JSON')
    .action(trace);
  completions(program);
  return program;
}

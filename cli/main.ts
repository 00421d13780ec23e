import { Command } from 'commander';
import { jsonSchemaText } from '../configs/json-schema.ts';
import { errorNameOf, messageOf } from '../host/errors.ts';
import { doctor } from './check.ts';
import { fp16, merge } from './convert.ts';
import { demo } from './demo.ts';
import { listDeployed, rollback, undeploy } from './deployments.ts';
import { trace } from './trace.ts';
import { down, up } from './up.ts';
import { validate } from './validate.ts';
import { work } from './worker.ts';

/** The `temper` command: what the Temporal CLI can't do. Exit codes: 0 done, 1 failed, 2 wrong arguments. */
export async function main(argv: string[]): Promise<void> {
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
    .command('demo')
    .description('Run the whole pipeline on a tiny Qwen3-VL, then stop all that was started.')
    .option('--keep', 'leave server, worker and the deployed model up')
    .action(demo);
  program
    .command('doctor')
    .description('Check this host for a config: GPUs, disk, ports, Python packages, base.')
    .argument('[config]', 'name or path of a YAML below the configs folder', 'demo')
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
    .command('merge')
    .description('Merge a LoRA adapter into its base in one streaming pass.')
    .argument('<base>')
    .argument('<adapter>')
    .argument('<out>')
    .option('--dtype <type>', 'fp16, bf16, or base for its own', 'base')
    .option('--device <device>', 'auto, cpu or cuda', 'auto')
    .option('--clamp', 'set what overflows to the largest number instead of failing')
    .action(merge);
  program
    .command('fp16')
    .description('Make a Qwen-VL folder fit for GPUs without bfloat16, beside it unless told otherwise.')
    .argument('<model-dir>')
    .option('--out <dir>', 'where to write')
    .option('--in-place', 'change the folder itself')
    .option('--rows <file>', 'rows (JSON lines) whose answers in fp16 must be those in fp32')
    .option('--clamp', 'set what overflows to the largest number instead of failing')
    .action(fp16);
  program
    .command('schema')
    .description('Print the JSON schema of the configs, for editors.')
    .action(() => void process.stdout.write(jsonSchemaText()));
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
    .action(rollback);
  program
    .command('undeploy')
    .description('Take a model out of service.')
    .argument('<name>', 'the deployment')
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
  try {
    await program.parseAsync(argv);
  } catch (error) {
    console.error(errorNameOf(error) === undefined ? error : `${errorNameOf(error)}: ${messageOf(error)}`);
    process.exit(1);
  }
}

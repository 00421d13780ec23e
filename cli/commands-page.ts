import type { Argument, Command, Option } from 'commander';

const exitCodes: [string, string][] = [
  ['0', 'done'],
  ['1', 'failed; one sentence on stderr says what, where and what to do ([errors.md](errors.md))'],
  [
    '2',
    'wrong arguments, or a config or training YAML with errors (`temper validate`: [dataset-checks.md](dataset-checks.md))',
  ],
  ['3', "`temper start --watch`, `temper watch`: the run's model was not taken: rejected, or rolled back"],
  ['130', 'interrupted by Ctrl-C; a run goes on'],
];

const variables: [string, string, string][] = [
  ['TEMPER_HOME', '`.temper` in the checkout', "runs, deployments, caches, the embedded server's database"],
  ['TEMPER_CONFIGS', '`configs` in the checkout', 'where configs are found by name'],
  ['TEMPER_MODELS', '`models` in `TEMPER_HOME`', 'bases that `model.source` names are fetched into folders here'],
  [
    'TEMPER_DATA_ROOTS',
    'the checkout, `/data`',
    'folders, with `:` between, that models and datasets must lie below; `TEMPER_HOME` and `TEMPER_MODELS` always are among them',
  ],
  ['TEMPER_HOST_NAME', "the machine's name", "this host's name among several ([hosts.md](hosts.md))"],
  ['TEMPER_GPU_SLOTS', '1', 'so many GPU stages at once on this host'],
  ['TEMPER_METRICS_ADDRESS', 'none', 'where the worker serves metrics for Prometheus, as `127.0.0.1:9464`'],
  [
    'TEMPER_REPORTS_PORT',
    'with `temper up` 8234 or any free one',
    'where reports are served on loopback; a worker serves them only with it',
  ],
  [
    'TEMPER_NOTIFY_URL',
    'none',
    'who is told of runs whose config has no `notify` ([notifications.md](notifications.md))',
  ],
  ['TEMPER_NOTIFY_FORMAT', 'json', 'what is posted there: json, slack, feishu, dingtalk or wecom'],
  ['TEMPER_NOTIFY_SECRET', 'none', 'signs it, where the format has signatures'],
  ['TEMPER_PAYLOAD_KEYS', 'none', 'encrypts what histories hold, `ID:KEY,…` ([security.md](security.md))'],
  ['TEMPER_BUILD_ID', 'none', "the worker's version, for runs pinned to theirs ([upgrades.md](upgrades.md))"],
];

/** `docs/cli.md`: every command with its arguments and options as the program has them, exit codes, and variables. */
export function commandsPage(program: Command): string {
  return `${[
    '# Commands',
    'Written by `node scripts/write-cli-docs.mjs` from the program itself. In a checkout `npx temper COMMAND` runs a command; the first one makes the checkout ready. `npx temper COMMAND --help` prints what stands here. Each command looks for the server that `TEMPORAL_ADDRESS` names, else for the `temper up` of this `TEMPER_HOME`.',
    '## Exit codes',
    table(['exit code', 'meaning'], exitCodes),
    '## Variables',
    "In the environment of the worker (`temper up`, `temper worker`) and of the commands. Those of the production server are in `.env.example`; those of Temporal (`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS_*`, profiles) are its own; `HF_TOKEN`, `HF_ENDPOINT` and `MODELSCOPE_API_TOKEN` are the hubs'.",
    table(
      ['variable', 'default', 'meaning'],
      variables.map(([name, ...rest]) => [`\`${name}\``, ...rest]),
    ),
    ...leavesOf(program).flatMap(({ name, command }) => commandSection(name, command)),
  ].join('\n\n')}\n`;
}

function leavesOf(command: Command, prefix = 'temper'): { name: string; command: Command }[] {
  return command.commands.flatMap((each) => {
    const name = `${prefix} ${each.name()}`;
    return each.commands.length > 0 ? leavesOf(each, name) : [{ name, command: each }];
  });
}

function commandSection(name: string, command: Command): string[] {
  const given = command.registeredArguments.map((argument) => ` ${termOf(argument)}`).join('');
  const rows = [...command.registeredArguments.map(argumentRow), ...command.options.map(optionRow)];
  return [
    `## ${name}`,
    `\`${name}${given}${command.options.length > 0 ? ' [options]' : ''}\``,
    command.description(),
    ...(rows.length > 0 ? [table(['', 'meaning', 'default'], rows)] : []),
  ].filter((part) => part !== '');
}

function termOf(argument: Argument): string {
  const name = `${argument.name()}${argument.variadic ? '...' : ''}`;
  return argument.required ? `<${name}>` : `[${name}]`;
}

function argumentRow(argument: Argument): string[] {
  return [`\`${termOf(argument)}\``, argument.description, defaultOf(argument.defaultValue)];
}

function optionRow({ flags, description, mandatory, defaultValue }: Option): string[] {
  return [`\`${flags}\``, mandatory ? `${description} (required)` : description, defaultOf(defaultValue)];
}

function defaultOf(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number' ? `\`${value}\`` : '';
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n');
}

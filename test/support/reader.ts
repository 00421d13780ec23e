import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { temporalCli } from '../../host/checkout.ts';
import { freePort } from '../../host/ports.ts';
import { runProgram, startDetached, type ProgramResult } from '../../host/subprocess.ts';
import { makeClone, removeClone } from './clone.ts';

const PRINTED_PORTS = ['7233', '8233', '8234', '8000', '7860'];
const UP = 'TEMPER_REPORTS_PORT=8234 npx temper up --port 7233 --ui-port 8233';
const READY_WITHIN_MS = 180_000;

/** Somebody who types what the docs print, in a clone of their own. */
export class Reader {
  readonly clone = makeClone();
  readonly env: Record<string, string>;
  /** The printed ports, which may be taken on this machine, and those in their place. */
  readonly #ports: ReadonlyMap<string, number>;
  /** Leaders of the sessions of what serves. */
  readonly #shells: number[] = [];

  private constructor(ports: ReadonlyMap<string, number>) {
    this.#ports = ports;
    const own = Object.entries(process.env).filter(([name]) => !/^(TEMPER|TEMPORAL|npm)_/.test(name));
    const address = { TEMPORAL_ADDRESS: this.asHere('127.0.0.1:7233') };
    this.env = { ...(Object.fromEntries(own) as Record<string, string>), ...address, TERM: 'dumb' };
    writeFileSync(this.#state, `cd ${this.clone}\n`);
  }

  static async make(): Promise<Reader> {
    const ports = new Map<string, number>();
    for (const port of PRINTED_PORTS) ports.set(port, await freePort());
    return new Reader(ports);
  }

  /** Type a command into a shell that knows what those before have exported and where they have gone to. */
  async type(command: string): Promise<Pick<ProgramResult, 'exitCode' | 'stdout' | 'stderr'>> {
    // There is no machine to reach: of ssh the arguments alone are read.
    const here = this.asHere(command.replace(/^ssh /, 'ssh -G '));
    const script = `. ${this.#state}\n${here}\ncode=$?\n{ export -p; echo cd "$PWD"; } > ${this.#state}\nexit $code`;
    const { exitCode, stdout, stderr } = await runProgram('bash', ['-c', script], {
      env: this.env,
      timeoutMs: 600_000,
    });
    return { exitCode, stdout, stderr };
  }

  /** Start what serves in another shell; returns when it has printed that it is ready. */
  async serve(command: string, ready: RegExp): Promise<void> {
    const log = join(this.clone, `shell-${this.#shells.length}.log`);
    const onPorts = command
      .replace('npx temper up', UP)
      .replace(/ > .*/, '')
      .replace(/^nohup TEMPER/, 'TEMPER');
    const shell = startDetached('bash', ['-c', `. ${this.#state}\n${this.asHere(onPorts)}`], log, this.env);
    this.#shells.push(shell);
    const deadline = Date.now() + READY_WITHIN_MS;
    while (!ready.test(readFileSync(log, 'utf8'))) {
      if (!isRunning(shell) || Date.now() > deadline)
        throw new Error(`${command} is not ready:\n${readFileSync(log, 'utf8').slice(-2000)}`);
      await sleep(200);
    }
  }

  /** Wait until a command succeeds. */
  async wait(command: string): Promise<void> {
    const deadline = Date.now() + READY_WITHIN_MS;
    while ((await this.type(command)).exitCode !== 0) {
      if (Date.now() > deadline) throw new Error(`${command} does not succeed.`);
      await sleep(500);
    }
  }

  has(program: string): boolean {
    return (this.env.PATH ?? '').split(':').some((folder) => existsSync(join(folder, program)));
  }

  /** So that no training that a page has started goes on under the next one. */
  async endRuns(): Promise<void> {
    const running = `--query "ExecutionStatus = 'Running'"`;
    await this.type(`${temporalCli} workflow cancel ${running} --reason docs --yes`);
    for (const end = Date.now() + 60_000; Date.now() < end; await sleep(300)) {
      const { stdout } = await this.type(`${temporalCli} workflow count ${running}`);
      if (!/Total: [1-9]/.test(stdout)) return;
    }
    throw new Error('Runs that were cancelled go on.');
  }

  /** Stop all that was started and remove the clone. */
  async leave(): Promise<void> {
    await this.type('for name in demo my-model; do npx temper undeploy $name; done');
    for (const shell of this.#shells.reverse()) await stopSession(shell);
    removeClone(this.clone);
  }

  /** A printed text with this machine's ports and places. */
  asHere(text: string): string {
    const withPorts = text.replaceAll(/\b\d{4}\b/g, (port) => String(this.#ports.get(port) ?? port));
    const places = { '/var/lib/temper': '.temper', 'BACKUP_HOST:': 'backup-host', ' /data/': ' data/' };
    return Object.entries(places).reduce((now, [from, to]) => now.replaceAll(from, to), withPorts);
  }

  get #state(): string {
    return join(this.clone, 'environment.sh');
  }
}

/** A server ends by itself; what does not within a minute is killed. */
async function stopSession(shell: number): Promise<void> {
  for (const [signal, seconds] of [['SIGTERM', 60] as const, ['SIGKILL', 10] as const]) {
    if (isRunning(shell)) process.kill(-shell, signal);
    const end = Date.now() + seconds * 1000;
    while (isRunning(shell) && Date.now() < end) await sleep(100);
  }
}

function isRunning(shell: number): boolean {
  try {
    return process.kill(-shell, 0);
  } catch {
    return false;
  }
}

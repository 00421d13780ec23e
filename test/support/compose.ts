import { execa } from 'execa';
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../host/ports.ts';

export const root = fileURLToPath(new URL('../..', import.meta.url));
const cli = `${root}/trainer/.venv/bin/temporal`;

export interface HistoryEvent {
  eventId: string;
  eventType: string;
}

/** What is read of a service of `docker compose config`. */
export interface ComposeService {
  image: string;
  restart?: string;
  healthcheck?: object;
  ports?: { host_ip?: string; target: number }[];
  volumes?: { type: string; source?: string }[];
}

/** docker-compose.yml under a project name, ports, volumes and passwords of its own. */
export class ComposeStack {
  readonly environment: Record<string, string | undefined>;

  private constructor(project: string, environment: Record<string, string>) {
    // Neither the user's .env nor their Temporal settings may reach the stack under test.
    const own = Object.entries(process.env).filter(([name]) => !/^(TEMPORAL|TEMPER|COMPOSE)_/.test(name));
    const names = { COMPOSE_PROJECT_NAME: project, COMPOSE_ENV_FILES: '/dev/null' };
    this.environment = { ...Object.fromEntries(own), ...names, ...environment };
  }

  /** What a stopped test has left under this name is removed first. */
  static async prepare(project: string): Promise<ComposeStack> {
    await execa('docker', ['compose', 'version']).catch((cause: unknown) => {
      throw new Error('npm run test:docker needs a Docker engine with the compose plugin', { cause });
    });
    const ports = [await freePort(), await freePort(), await freePort(), await freePort()].map(String);
    const [server = '', ui = '', prometheus = '', grafana = ''] = ports;
    const stack = new ComposeStack(project, {
      ...{ TEMPER_SERVER_PORT: server, TEMPER_UI_PORT: ui },
      ...{ TEMPER_PROMETHEUS_PORT: prometheus, TEMPER_GRAFANA_PORT: grafana },
      TEMPER_DATABASE_PASSWORD: randomBytes(24).toString('hex'),
      ...{ TEMPORAL_ADDRESS: `127.0.0.1:${server}`, TEMPORAL_NAMESPACE: 'default' },
    });
    await stack.remove();
    return stack;
  }

  async compose(...args: string[]): Promise<string> {
    return this.#run('docker', ['compose', ...args]);
  }

  /** Commands as somebody would type them in the checkout, `folder` being where they leave and find files. */
  async shell(commands: string, folder: string): Promise<string> {
    const compose = `docker() { (cd '${root}' && command docker "$@"); }`;
    return this.#run('bash', ['-euc', `${compose}\ncd '${folder}'\n${commands}`]);
  }

  async temporal(...args: string[]): Promise<string> {
    return this.#run(cli, ['--disable-config-file', ...args]);
  }

  async history(workflowId: string): Promise<HistoryEvent[]> {
    const shown = await this.temporal('workflow', 'show', '--workflow-id', workflowId, '--output', 'json');
    return (JSON.parse(shown) as { events: HistoryEvent[] }).events;
  }

  async remove(): Promise<void> {
    await this.compose('--profile', '*', 'down', '--volumes', '--remove-orphans');
  }

  async #run(file: string, args: string[]): Promise<string> {
    const options = { cwd: root, env: this.environment, extendEnv: false, timeout: 240_000 };
    return (await execa(file, args, options)).stdout;
  }
}

/** Assert again and again until it holds. */
export async function eventually<T>(what: string, assertion: () => Promise<T>, timeoutMs = 60_000): Promise<T> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    try {
      return await assertion();
    } catch (cause) {
      if (Date.now() > end) throw new Error(`not within ${timeoutMs / 1000} s: ${what}`, { cause });
      await sleep(300);
    }
  }
}

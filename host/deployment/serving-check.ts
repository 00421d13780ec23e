import type { ResolvedConfig } from '../../configs/schema.ts';
import type { CheckItem } from '../check-item.ts';
import { findDeployment } from './deployments.ts';
import { askEngine } from '../docker.ts';
import { messageOf } from '../errors.ts';
import { findHaproxy } from './haproxy-program.ts';
import { portIsFree } from '../ports.ts';
import { packagesOfImage } from './serving-image.ts';

/** Whether the host can serve what the config deploys; nothing is started but, once for an image, Python without network. */
export async function servingItems(config: ResolvedConfig, hasGpu: boolean, home: string): Promise<CheckItem[]> {
  if (!config.deploy.enabled) return [];
  const ports = await portItems(config, home);
  const runtime = config.deploy.runtime === 'docker' ? await dockerItems(config, hasGpu, home) : [haproxyItem()];
  return [...ports, ...runtime];
}

function haproxyItem(): CheckItem {
  const program = findHaproxy();
  return {
    name: 'HAProxy',
    found: program === undefined ? 'none' : program.file,
    needed: 'HAProxy, which holds the stable address of a deployment',
    verdict: program === undefined ? 'error' : 'ok',
    ...(program === undefined ? { fix: 'sudo apt-get install haproxy, or set deploy.runtime: docker' } : {}),
  };
}

/** A port is good when it is free or held by the deployment that this run is going to replace. */
async function portItems(config: ResolvedConfig, home: string): Promise<CheckItem[]> {
  const { host, name, apiPort, pagePort } = config.deploy;
  const ports = [...new Set([apiPort, pagePort])].filter((port) => port !== 0);
  const current = ports.length === 0 ? undefined : await findDeployment(home, name);
  const items = ports.map(async (port): Promise<CheckItem> => {
    const held = current?.api.port === port || current?.page.port === port;
    const free = held || (await portIsFree(port, host));
    const taken = free ? 'free' : 'in use by another program';
    return {
      name: `port ${port}`,
      found: held ? `held by the deployment ${name}, which is replaced` : taken,
      needed: `free on ${host}`,
      verdict: free ? 'ok' : 'error',
      ...(free
        ? {}
        : { fix: `stop what listens there (ss -ltnp 'sport = :${port}'), or set deploy.apiPort and deploy.pagePort` }),
    };
  });
  return Promise.all(items);
}

async function dockerItems({ deploy, train }: ResolvedConfig, hasGpu: boolean, home: string): Promise<CheckItem[]> {
  const engine = await askEngine();
  if (!engine.reachable) {
    return [
      {
        name: 'Docker engine',
        found: `not reachable: ${engine.reason}`,
        needed: 'an engine that this user may use, for deploy.runtime: docker',
        verdict: 'error',
        fix: 'start it (systemctl start docker) and add this user to its group (usermod -aG docker USER), or set deploy.runtime: process',
      },
    ];
  }
  const items: CheckItem[] = [
    { name: 'Docker engine', found: engine.version, needed: 'an engine that this user may use', verdict: 'ok' },
  ];
  if (hasGpu && train.use_cpu !== true) {
    items.push({
      name: 'GPUs in containers',
      found: engine.hasGpus ? 'the NVIDIA runtime is there' : 'the engine knows no NVIDIA runtime',
      needed: 'the NVIDIA Container Toolkit, for --gpus',
      verdict: engine.hasGpus ? 'ok' : 'error',
      ...(engine.hasGpus ? {} : { fix: 'nvidia-ctk runtime configure --runtime=docker && systemctl restart docker' }),
    });
  }
  items.push(await imageItem(deploy.image, home));
  return items;
}

/** Whether the image is there, and whether its transformers loads what Temper exports, which 4.57 and newer do. */
async function imageItem(image: string, home: string): Promise<CheckItem> {
  const item: CheckItem = { name: 'serving image', found: image, needed: 'transformers 4.57 or newer', verdict: 'ok' };
  const build = `docker build -f serving/Dockerfile -t ${image} .`;
  const packages = await packagesOfImage(image, home).catch((error: unknown) => messageOf(error));
  if (packages === undefined) return { ...item, found: `${image} is not on this host`, verdict: 'error', fix: build };
  const version = typeof packages === 'string' ? packages : (packages.transformers ?? 'none');
  const [major, minor] = version.split('.').map(Number);
  const loads = major !== undefined && minor !== undefined && (major > 4 || (major === 4 && minor >= 57));
  const found = `${image} with transformers ${version}`;
  return loads ? { ...item, found } : { ...item, found, verdict: 'error', fix: build };
}

import { existsSync } from 'node:fs';
import type { ResolvedConfig } from '../../configs/schema.ts';
import type { CheckItem } from '../check-item.ts';
import { vllmPython } from '../checkout.ts';
import type { Gpu } from '../gpus.ts';
import { packagesOfImage } from './serving-image.ts';

/** What generates a served model's answers. */
export type Backend = 'huggingface' | 'vllm';

/** A backend, and where a config leaves that open or asks for what this host can't, the item that says so. */
export interface BackendChoice {
  backend: Backend;
  item: CheckItem;
}

/** vLLM 0.11's documentation: "compute capability 7.0 or higher" (docs/getting_started/installation/gpu/cuda.inc.md). */
const VLLM_MIN_CAPABILITY = 7;
/** Where its usual attention, FlashAttention, and bfloat16 begin (vllm/platforms/cuda.py); before that it has substitutes. */
const VLLM_USUAL_CAPABILITY = 8;

/** What `deploy.backend` comes to on this host; vLLM serves on its first GPU. */
export async function chooseBackend(config: ResolvedConfig, gpus: Gpu[], home: string): Promise<BackendChoice> {
  const { backend: wanted } = config.deploy;
  if (wanted === 'huggingface') return choice('huggingface', 'deploy.backend: huggingface');
  const [gpu] = gpus;
  const problem = gpu === undefined ? noGpu : (tooOld(gpu) ?? (await notInstalled(config, home)));
  if (wanted === 'vllm') return problem === undefined ? asked(gpu) : refused(problem);
  const why = problem?.found ?? (isUsual(gpu) ? undefined : `${described(gpu)}, for which auto leaves vLLM alone`);
  return why === undefined ? choice('vllm', 'auto: vLLM is installed') : choice('huggingface', `auto: ${why}`);
}

interface Problem {
  found: string;
  needed: string;
  fix: string;
}

const huggingface = 'set deploy.backend: huggingface';
const noGpu: Problem = {
  found: 'no GPU to serve on',
  needed: 'an NVIDIA GPU for deploy.backend: vllm',
  fix: huggingface,
};

function tooOld(gpu: Gpu): Problem | undefined {
  if (gpu.computeCapability >= VLLM_MIN_CAPABILITY) return undefined;
  const needed = 'compute capability 7.0 or newer for deploy.backend: vllm';
  return { found: described(gpu), needed, fix: huggingface };
}

async function notInstalled({ deploy }: ResolvedConfig, home: string): Promise<Problem | undefined> {
  const needed = 'vLLM for deploy.backend: vllm';
  if (deploy.runtime === 'process') {
    if (existsSync(vllmPython)) return undefined;
    return { found: 'vLLM is not installed', needed, fix: `npm run setup:vllm, or ${huggingface}` };
  }
  const packages = await packagesOfImage(deploy.image, home).catch(() => undefined);
  if (packages?.vllm != null) return undefined;
  const build = `docker build -f serving/Dockerfile --build-arg BACKEND=vllm -t ${deploy.image} .`;
  return { found: `${deploy.image} has no vLLM`, needed, fix: `${build}, or ${huggingface}` };
}

function isUsual(gpu: Gpu | undefined): boolean {
  return gpu !== undefined && gpu.computeCapability >= VLLM_USUAL_CAPABILITY;
}

function described(gpu: Gpu | undefined): string {
  return `${gpu?.name}, compute capability ${gpu?.computeCapability.toFixed(1)}`;
}

function choice(backend: Backend, why: string): BackendChoice {
  return {
    backend,
    item: { name: 'serving backend', found: `${backend} (${why})`, needed: 'one that can serve here', verdict: 'ok' },
  };
}

function asked(gpu: Gpu | undefined): BackendChoice {
  const chosen = choice('vllm', 'deploy.backend: vllm');
  if (isUsual(gpu)) return chosen;
  const item: CheckItem = {
    ...chosen.item,
    found: `vllm on ${described(gpu)}`,
    needed: 'compute capability 8.0 or newer; vLLM has substitutes for older GPUs, which Temper has not tried',
    verdict: 'warning',
    fix: `${huggingface} if it does not start`,
  };
  return { ...chosen, item };
}

function refused(problem: Problem): BackendChoice {
  return { backend: 'vllm', item: { name: 'serving backend', ...problem, verdict: 'error' } };
}

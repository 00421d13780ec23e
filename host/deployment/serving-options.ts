import type { ResolvedConfig } from '../../configs/schema.ts';
import type { Backend } from './backend.ts';

/** How a model is served, whatever runs it: the flags of serving/serve.py. */
export interface ServingOptions {
  /** Only where it is not Hugging Face's; images of before know no other. */
  backend?: Exclude<Backend, 'huggingface'> | undefined;
  /** With vLLM: what it takes of the GPU's free memory. */
  gpuMemoryShare?: number | undefined;
  template: string;
  imageMaxPixels?: number | undefined;
  imageMinPixels?: number | undefined;
  /** Prompt and answer together, in tokens. */
  maxLength?: number | undefined;
  maxNewTokens?: number | undefined;
  /** Name of the variable in the worker's environment that holds the API's key. */
  apiKeyEnv?: string | undefined;
  /** Serve on the CPU though a GPU may be there. */
  cpu: boolean;
}

/** How a config's model is served so that it sees what it saw in training: the same template and pixel limits. */
export function servingOptions(
  { train, evaluate, deploy }: ResolvedConfig,
  backend: Backend = 'huggingface',
): ServingOptions {
  const number = (value: unknown) => (typeof value === 'number' ? value : undefined);
  return {
    template: String(train.template),
    imageMaxPixels: number(train.image_max_pixels),
    imageMinPixels: number(train.image_min_pixels),
    maxNewTokens: evaluate.maxNewTokens,
    apiKeyEnv: deploy.apiKeyEnv,
    cpu: train.use_cpu === true,
    ...(backend === 'vllm' ? { backend, gpuMemoryShare: deploy.gpuMemoryShare } : {}),
  };
}

/** The API's key; undefined for one without. */
export function apiKeyOf({ apiKeyEnv }: Pick<ServingOptions, 'apiKeyEnv'>): string | undefined {
  return apiKeyEnv === undefined ? undefined : process.env[apiKeyEnv];
}

/** The flags of serving/serve.py for these options; the key's are left to the runtime. */
export function servingFlags(options: ServingOptions): string[] {
  const valued = {
    '--backend': options.backend,
    '--gpu-memory-share': options.gpuMemoryShare,
    '--template': options.template,
    '--image-max-pixels': options.imageMaxPixels,
    '--image-min-pixels': options.imageMinPixels,
    '--max-length': options.maxLength,
    '--max-new-tokens': options.maxNewTokens,
  };
  return [
    ...Object.entries(valued).flatMap(([flag, value]) => (value === undefined ? [] : [flag, String(value)])),
    ...(options.cpu ? ['--cpu'] : []),
  ];
}

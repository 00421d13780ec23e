import type { ResolvedConfig } from '../configs/schema.ts';
import type { ApiOptions } from './served-model.ts';

type FromConfig = Pick<
  ApiOptions,
  'template' | 'imageMaxPixels' | 'imageMinPixels' | 'maxNewTokens' | 'apiKeyEnv' | 'cpu'
>;

/** How a model is served so that it sees what it saw in training: the same template and pixel limits. */
export function servingOptions({ train, evaluate, deploy }: ResolvedConfig): FromConfig {
  const number = (value: unknown) => (typeof value === 'number' ? value : undefined);
  return {
    template: String(train.template),
    imageMaxPixels: number(train.image_max_pixels),
    imageMinPixels: number(train.image_min_pixels),
    maxNewTokens: evaluate.maxNewTokens,
    apiKeyEnv: deploy.apiKeyEnv,
    cpu: train.use_cpu === true,
  };
}

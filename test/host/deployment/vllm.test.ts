import { expect, test } from '@jest/globals';
import { join } from 'node:path';
import { checkout } from '../../../host/checkout.ts';
import { askHttp } from '../../../host/http.ts';
import { serverRuns, startModel, stopServer, type Model, type Place } from '../../../host/deployment/model-server.ts';
import { processesWith } from '../../../host/process-table.ts';
import { newFolder } from '../../fixtures/trainers/stand-in.ts';

const withVllm = process.env.TEMPER_TEST_VLLM === '1' ? test : test.skip;

withVllm(
  'a model is served by vLLM as a process that outlives the worker, and nothing of it is left when it is stopped',
  async () => {
    const home = newFolder();
    const place: Place = { home, name: 'cards', runtime: 'process', image: '' };
    const model: Model = {
      ...{ runName: 'first', modelDir: join(checkout, 'demo/tiny-qwen3-vl'), modelDigest: 'ab12cd34ef56' },
      serving: { template: 'qwen3_vl_nothink', cpu: true, backend: 'vllm', gpuMemoryShare: 0.5 },
    };
    const server = await startModel(model, place, new AbortController().signal);
    try {
      const { body } = await askHttp(`${server.url}/health`, { signal: new AbortController().signal });
      expect(JSON.parse(body)).toMatchObject({ healthy: true, backend: 'vllm', run: 'first' });
    } finally {
      await stopServer(server);
    }
    expect(await serverRuns(server)).toBe(false);
    expect(processesWith(home)).toEqual([]);
  },
  180_000,
);

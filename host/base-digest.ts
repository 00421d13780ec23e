import { runPython } from './python.ts';

/** What stands for the weights of a model folder; `trainer/base_digest.py` says what it covers. */
export async function digestOfBase(folder: string, cancelSignal?: AbortSignal): Promise<string> {
  const { baseDigest } = await runPython<{ baseDigest: string }>('trainer/base_digest.py', [folder], { cancelSignal });
  return baseDigest;
}

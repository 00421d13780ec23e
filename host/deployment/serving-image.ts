import { join } from 'node:path';
import { digestOfValue } from '../digest.ts';
import { imageId, runInImage } from '../docker.ts';
import { readJson, writeJson } from '../state-file.ts';

/** Versions of the packages that decide what an image can serve. */
export interface ImagePackages {
  transformers: string | null;
  vllm: string | null;
}

const PROGRAM = `
import importlib.metadata as m, json
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
print(json.dumps({name: version(name) for name in ("transformers", "vllm")}))
`.trim();

/** What an image has, looked up once for an image; undefined when the engine hasn't got the image. */
export async function packagesOfImage(image: string, home: string): Promise<ImagePackages | undefined> {
  const id = await imageId(image);
  if (id === undefined) return undefined;
  const file = join(home, 'cache/images', `${digestOfValue({ id, asked: PROGRAM })}.json`);
  const remembered = await readJson<ImagePackages>(file);
  if (remembered !== undefined) return remembered;
  const packages = JSON.parse(await runInImage(image, 'python', ['-c', PROGRAM])) as ImagePackages;
  await writeJson(file, { image, id, ...packages });
  return packages;
}

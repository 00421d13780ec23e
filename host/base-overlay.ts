import { mkdir, readdir, readFile, readlink, rm, symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { writeJson } from './state-file.ts';

/**
 * A folder of links to the base whose config.json says another dtype at every level, so that a base in bfloat16 is
 * loaded as float16 on a GPU without bfloat16. The base itself is never touched. Returns the folder.
 */
export async function makeBaseOverlay(
  baseFolder: string,
  overlayFolder: string,
  dtype: 'float16' | 'bfloat16',
): Promise<string> {
  await mkdir(overlayFolder, { recursive: true });
  const wanted = (await readdir(baseFolder)).filter((name) => name !== 'config.json');
  for (const name of await readdir(overlayFolder)) {
    if (!wanted.includes(name) && name !== 'config.json') await rm(join(overlayFolder, name));
  }
  for (const name of wanted) await link(resolve(baseFolder, name), join(overlayFolder, name));
  const config = JSON.parse(await readFile(join(baseFolder, 'config.json'), 'utf8')) as Record<string, unknown>;
  await writeJson(join(overlayFolder, 'config.json'), withDtype(config, dtype));
  return overlayFolder;
}

/** A link at `path`; one that points there already stays, since a trainer may be reading through it. */
async function link(target: string, path: string): Promise<void> {
  const now = await readlink(path).catch(() => undefined);
  if (now === target) return;
  await rm(path, { force: true });
  await symlink(target, path);
}

/** transformers 4.57 lets `text_config.dtype` win over the root's, 5.x the root's: all three levels must agree. */
function withDtype(config: Record<string, unknown>, dtype: string): Record<string, unknown> {
  const level = (value: unknown): Record<string, unknown> => {
    const { torch_dtype: _, ...rest } = (value ?? {}) as Record<string, unknown>;
    return { ...rest, dtype };
  };
  return { ...level(config), text_config: level(config.text_config), vision_config: level(config.vision_config) };
}

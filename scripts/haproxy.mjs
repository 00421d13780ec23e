// HAProxy, which gives a deployment its stable address: the host's, else the distribution's packages unpacked in a folder.
import { execFile } from 'node:child_process';
import { accessSync, constants, copyFileSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, delimiter, join } from 'node:path';
import { promisify } from 'node:util';

/** Whether the host has HAProxy where host/haproxy-program.ts looks for it. */
export function hostHasHaproxy() {
  const folders = [...(process.env.PATH ?? '').split(delimiter).filter(Boolean), '/usr/sbin', '/usr/local/sbin'];
  return folders.some((folder) => isProgram(join(folder, 'haproxy')));
}

/**
 * Unpack HAProxy's packages and those it needs here into `folder`/root, their libraries copied into `folder`/lib: on Debian and
 * Ubuntu, without root and without touching the system. Throws when that can't be done, and leaves `folder` as it was.
 */
export async function unpackHaproxy(folder) {
  const unfinished = `${folder}.unfinished`;
  rmSync(unfinished, { recursive: true, force: true });
  try {
    await unpackInto(unfinished);
    rmSync(folder, { recursive: true, force: true });
    renameSync(unfinished, folder);
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
}

async function unpackInto(folder) {
  for (const name of ['cache/archives/partial', 'lists/partial', 'packages', 'root', 'lib']) {
    mkdirSync(join(folder, name), { recursive: true });
  }
  await fetchPackages(folder);
  const packages = join(folder, 'packages');
  for (const file of readdirSync(packages)) {
    await run('dpkg', ['-x', join(packages, file), join(folder, 'root')], folder);
  }
  for (const file of filesBelow(join(folder, 'root'))) {
    if (/\.so(\.\d+)*$/.test(file)) copyFileSync(file, join(folder, 'lib', basename(file)));
  }
  for (const name of ['cache', 'lists', 'packages']) rmSync(join(folder, name), { recursive: true });
  await run(join(folder, 'root/usr/sbin/haproxy'), ['-v'], folder, { LD_LIBRARY_PATH: join(folder, 'lib') });
}

async function fetchPackages(folder) {
  const cache = `Dir::Cache=${join(folder, 'cache')}`;
  const own = [cache, 'APT::Sandbox::User=root', 'Acquire::http::Timeout=20', 'Acquire::Retries=1'];
  const ownLists = [...own, `Dir::State::lists=${join(folder, 'lists')}`];
  try {
    await download(folder, own);
  } catch {
    // The host's package lists are empty, or so old that they name packages that are gone.
    await apt(folder, ownLists, ['update']);
    await download(folder, ownLists);
  }
}

/** Fetch HAProxy and what an installation of it would add to this host. */
async function download(folder, options) {
  const plan = await apt(folder, options, ['--simulate', '--no-install-recommends', 'install', 'haproxy']);
  const missing = [...plan.matchAll(/^Inst (\S+) (?:\[[^\]]*\] )?\((\S+)/gm)].map(
    ([, name, version]) => `${name}=${version}`,
  );
  await apt(join(folder, 'packages'), options, ['download', ...missing]);
}

function apt(folder, options, args) {
  return run('apt-get', [...options.flatMap((option) => ['-o', option]), '--quiet=2', ...args], folder);
}

async function run(file, args, cwd, env = {}) {
  const options = { cwd, env: { ...process.env, LC_ALL: 'C', ...env } };
  return (await promisify(execFile)(file, args, options)).stdout;
}

function filesBelow(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });
}

function isProgram(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

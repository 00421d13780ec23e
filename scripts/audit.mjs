#!/usr/bin/env node
// `npm run audit`: known vulnerabilities in what the lock files name, npm's by `npm audit` (high and critical ones) and Python's by
// pip-audit (all, since its advisories have no severity). One that scripts/audit-exceptions.json lists by its ID with a reason is
// let pass; any other makes the exit code 1. Exit code 2: a database could not be asked. `-- npm` or `-- python` makes one alone.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findUv } from './setup.mjs';

const PIP_AUDIT = 'pip-audit==2.10.1';
const root = fileURLToPath(new URL('..', import.meta.url));

const exceptions = JSON.parse(readFileSync(join(root, 'scripts/audit-exceptions.json'), 'utf8'));
const uv = await findUv((line) => console.error(line));
const wanted = process.argv.slice(2);
const audits = Object.entries({ npm: auditNpm, python: auditPython })
  .filter(([name]) => wanted.length === 0 || wanted.includes(name))
  .map(([, audit]) => audit());
const findings = audits.flatMap((audit) => audit.findings);
const unlisted = findings.filter(({ ids }) => !ids.some((id) => id in exceptions));
for (const { what, ids, title } of findings) {
  const reason = ids.map((id) => exceptions[id]).find(Boolean);
  console.log(`${reason === undefined ? 'FOUND' : 'excepted'}  ${what}  ${ids.join(' ')}  ${reason ?? title}`);
}
for (const { name, failure } of audits) if (failure !== undefined) console.error(`${name} was not made: ${failure}`);
console.log(`audit: ${unlisted.length} found, ${findings.length - unlisted.length} excepted`);
process.exit(unlisted.length > 0 ? 1 : audits.some(({ failure }) => failure !== undefined) ? 2 : 0);

function auditNpm() {
  const { stdout } = run('npm', ['audit', '--json', '--package-lock-only']);
  const report = parse(stdout);
  if (report?.vulnerabilities === undefined)
    return { name: 'npm audit', findings: [], failure: report?.message ?? 'npm gave no report' };
  const grave = Object.values(report.vulnerabilities).filter(({ severity }) => ['high', 'critical'].includes(severity));
  const findings = grave.flatMap(({ name, via }) =>
    via
      .filter((cause) => typeof cause === 'object' && ['high', 'critical'].includes(cause.severity))
      .map(({ url, title }) => ({ what: `npm ${name}`, ids: [url.split('/').at(-1)], title })),
  );
  return { name: 'npm audit', findings };
}

function auditPython() {
  const args = ['tool', 'run', '--quiet', PIP_AUDIT, '--requirement', 'trainer/requirements.lock', '--disable-pip'];
  const { stdout, stderr } = run(uv, [...args, '--format', 'json', '--progress-spinner', 'off']);
  const report = parse(stdout);
  if (report?.dependencies === undefined)
    return { name: 'pip-audit', findings: [], failure: stderr.trim().split('\n').at(-1) };
  const skipped = report.dependencies.filter(({ skip_reason: reason }) => reason !== undefined);
  const findings = report.dependencies.flatMap(({ name, version, vulns = [] }) =>
    vulns.map(({ id, aliases, description }) => ({
      what: `python ${name} ${version}`,
      ids: [id, ...aliases],
      title: description.split('\n')[0].slice(0, 120),
    })),
  );
  const failure = `${skipped.length} packages were skipped, such as: ${skipped[0]?.skip_reason}`;
  return { name: 'pip-audit', findings, ...(skipped.length > 0 && { failure }) };
}

function run(file, args) {
  return spawnSync(file, args, { cwd: root, encoding: 'utf8', maxBuffer: 1e8 });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

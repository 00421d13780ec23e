import { readDeployment, recordedDeployments } from '../host/deployment/deployments.ts';
import { containerLabels } from '../host/docker.ts';
import { messageOf, TemperError } from '../host/errors.ts';
import { traceModel, type Link, type Served } from '../host/lineage.ts';
import { readSettings } from '../workers/settings.ts';

interface TraceOptions {
  json?: boolean;
  verify?: boolean;
  apiKeyEnv?: string;
}

/** A model that is away answers its health check after up to half a minute. */
const PATIENCE_MS = 35_000;

/** `temper trace CONTAINER|URL`: from what is served to the rows it was trained on; exit code 1 when a link doesn't hold. */
export async function trace(target: string, { json, verify = false, apiKeyEnv }: TraceOptions): Promise<void> {
  const { home } = readSettings();
  const served = target.includes(':') ? await servedAt(target, home, apiKeyEnv) : await servedIn(target);
  const links = await traceModel(served, verify);
  const ok = links.every(({ problems }) => problems.length === 0);
  if (json) console.log(JSON.stringify({ ok, verified: verify, served, links }, null, 2));
  else for (const line of linesOf(links, ok, verify)) console.log(line);
  if (!ok) process.exitCode = 1;
}

/** What a container's labels say; the page and the stable address stand for their deployment's champion. */
async function servedIn(container: string): Promise<Served> {
  const labels = await containerLabels(container);
  if (labels === undefined) throw new TemperError('DeploymentError', `There is no container ${container} here.`);
  const { 'temper.home': home, 'temper.deployment': name } = labels;
  if (home === undefined || name === undefined)
    throw new TemperError('DeploymentError', `The container ${container} is none of Temper's: it lacks its labels.`);
  const by = `container ${container} of the deployment ${name}`;
  const { 'temper.run': runName, 'temper.model-digest': modelDigest } = labels;
  if (runName !== undefined && modelDigest !== undefined) return { by, home, runName, modelDigest };
  const champion = (await readDeployment(home, name))?.champion;
  if (champion === undefined)
    throw new TemperError('DeploymentError', `The deployment ${name} of the container ${container} is on no record.`);
  return { by, home, runName: champion.runName, modelDigest: champion.modelDigest };
}

/** What the model itself says at an address, which may also be its chat page's. */
async function servedAt(address: string, home: string, apiKeyEnv: string | undefined): Promise<Served> {
  const origin = originOf(address);
  const recorded = (await recordedDeployments(home)).find(({ api, page }) => [api.url, page.url].includes(origin));
  const apiUrl = recorded?.api.url ?? origin;
  const keyVariable = apiKeyEnv ?? recorded?.champion.serving.apiKeyEnv;
  const { model, run, modelDigest } = await askHealth(apiUrl, keyVariable && process.env[keyVariable]);
  if (run && modelDigest)
    return { by: `${model} at ${apiUrl}`, home: recorded?.home ?? home, runName: run, modelDigest };
  throw new TemperError(
    'DeploymentError',
    `The model ${model} at ${apiUrl} does not say which run it is from. If it has a key, name the variable that holds it with --api-key-env${keyVariable ? `; ${keyVariable} was sent` : ''}. If it has none, Temper did not put it into service.`,
  );
}

/** As deployments are recorded: on loopback by its number. */
function originOf(address: string): string {
  const url = /^https?:/.test(address) ? address : `http://${address}`;
  if (!URL.canParse(url)) throw new TemperError('DeploymentError', `${address} is neither a container nor an address.`);
  return new URL(url).origin.replace('//localhost', '//127.0.0.1');
}

interface Facts {
  model: string;
  run?: string | null;
  modelDigest?: string | null;
}

/** The facts of a model that answers, healthy or not. */
async function askHealth(apiUrl: string, key: string | undefined): Promise<Facts> {
  const headers: Record<string, string> = key ? { authorization: `Bearer ${key}` } : {};
  let response: Response;
  try {
    response = await fetch(`${apiUrl}/health`, { headers, signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch (error) {
    throw new TemperError(
      'DeploymentError',
      `Nothing answers at ${apiUrl}: ${messageOf((error as Error).cause ?? error)}`,
    );
  }
  const facts = (await response.json().catch(() => undefined)) as Facts | undefined;
  if (typeof facts?.model === 'string') return facts;
  throw new TemperError(
    'DeploymentError',
    `What answers at ${apiUrl} is no model that Temper serves (${response.status}).`,
  );
}

function linesOf(links: Link[], ok: boolean, verified: boolean): string[] {
  const unread = verified ? '' : ' Merged weights, base, rows and pictures were not read again; --verify does.';
  return [
    ...links.flatMap(linkLines),
    ok ? `The chain holds from what is served to its rows.${unread}` : 'The chain is broken.',
  ];
}

function linkLines({ link, what, digest, problems }: Link): string[] {
  const indent = ' '.repeat(17);
  const lines = [...what, ...(digest === null ? [] : [digest]), ...problems.map((problem) => `why: ${problem}`)];
  const mark = problems.length === 0 ? 'ok' : 'broken';
  return lines.map((line, index) => `${index === 0 ? `${mark.padEnd(8)}${link.padEnd(9)}` : indent}${line}`);
}

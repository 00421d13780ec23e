import type { LoadOptions } from '../configs/load.ts';
import type { NotifyEntry } from '../configs/notify-schema.ts';
import { checkout } from './checkout.ts';

/** What a host's worker is allowed and set to do; read from its environment by `workers/settings.ts`. */
export interface HostSettings {
  /** What this host is called among several; its queue is named by it. */
  hostName: string;
  /** `$TEMPER_HOME`: runs, deployments, caches, the embedded server's database. */
  home: string;
  /** The folder below which a run's `config` names a YAML. */
  configsFolder: string;
  /** `$TEMPER_MODELS`: bases that a config names by `model.source` are fetched into folders here. */
  modelsRoot: string;
  /** The folders inside which models and datasets must lie, links followed. */
  dataRoots: string[];
  /** Stages that need a GPU at once. */
  gpuSlots: number;
  /** `$TEMPER_NOTIFY_URL` and what goes with it: who is told of runs whose config does not say so. */
  notify?: NotifyEntry;
  /** Whether the server's namespace has Temper's search attributes; the worker looks when it starts. */
  isIndexed?: boolean;
  /** Where the worker serves reports, such as `http://127.0.0.1:8234`; undefined where it doesn't. */
  reportsUrl?: string;
  /** For tests: the program that trains, instead of Python with `trainer/train.py`; it gets the same arguments. */
  trainerCommand?: string[];
  /** For tests: the programs that serve, instead of Python with `serving/serve.py` and `serving/chat_page.py`. */
  servingCommands?: { api: string[]; page: string[] };
}

/** Where this host's configs are read from, and what they may name. */
export function loadOptions({ configsFolder, dataRoots, modelsRoot }: HostSettings): LoadOptions {
  return { configsFolder, root: checkout, allowedRoots: dataRoots, modelsRoot };
}

import type { ModelSource } from '../configs/schema.ts';
import { runPython, type PythonOptions } from './python.ts';

/** A base's folder as `trainer/fetch_base.py` finds or leaves it. */
export interface BaseState {
  /** `present`: nothing was asked of the network; `absent`: only with `planBase`. */
  state: 'present' | 'fetched' | 'absent';
  /** The commit, or the revision where a hub names none; null for a folder that Temper has not fetched. */
  commit: string | null;
  files: number;
  bytes: number;
  note?: string;
}

/** What a fetch would bring, and the room for it. */
export interface BasePlan extends BaseState {
  missingBytes?: number;
  freeBytes?: number;
}

/** Have the base whole in `folder`: at once when it is, else fetched from where an earlier attempt broke off. */
export function fetchBase(model: ModelSource, folder: string, options: PythonOptions): Promise<BaseState> {
  return runPython<BaseState>('trainer/fetch_base.py', fetchArguments(model, folder), options);
}

/** What `fetchBase` would do; nothing is written. */
export function planBase(model: ModelSource, folder: string, options: PythonOptions): Promise<BasePlan> {
  return runPython<BasePlan>('trainer/fetch_base.py', [...fetchArguments(model, folder), '--plan'], options);
}

/** A token is no argument: the hubs' clients read it from the worker's environment. */
function fetchArguments({ source, revision }: ModelSource, folder: string): string[] {
  return [source, folder, ...(revision === undefined ? [] : [`--revision=${revision}`])];
}

import type { HostDescription } from '../activities/hosts.ts';
import { describeHosts } from './placement.ts';

/** The hosts whose workers are there, with their GPUs, what they train and what they serve. */
export async function hosts(): Promise<HostDescription[]> {
  return describeHosts();
}

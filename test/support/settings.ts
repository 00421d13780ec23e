import type { HostSettings } from '../../host/settings.ts';

/** A worker's settings for a home of one test; without folders that configs, models or data may be in, unless they are given. */
export function settingsOf(home: string, others: Partial<HostSettings> = {}): HostSettings {
  return { home, configsFolder: '', modelsRoot: '', dataRoots: [], hostName: 'here', gpuSlots: 1, ...others };
}

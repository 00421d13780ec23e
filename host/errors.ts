/** The errors that Temper raises, named by who must act; `docs/errors.md` has a row for each. */
export const errorNames = [
  'ConfigError',
  'DatasetError',
  'HostError',
  'OutOfMemoryError',
  'DiskFullError',
  'DownloadError',
  'TrainerError',
  'DeploymentError',
  'NotificationError',
] as const;

export type ErrorName = (typeof errorNames)[number];

/** A failure that somebody can act on; the message stands alone: what failed, where, the fix, the log. */
export class TemperError extends Error {
  override readonly name: ErrorName;
  readonly details: Record<string, unknown> | undefined;

  constructor(name: ErrorName, message: string, options: { cause?: unknown; details?: Record<string, unknown> } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = name;
    this.details = options.details;
  }
}

/** The name of a TemperError or of an error that carries one of its names (as ConfigError does), else undefined. */
export function errorNameOf(error: unknown): ErrorName | undefined {
  const name = error instanceof Error ? error.name : undefined;
  return errorNames.find((known) => known === name);
}

/** An error's message; anything else as a string. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Milliseconds since the epoch of a protobuf Timestamp, as Temporal's raw answers hold it; null for none. */
export function millisOf(time: { seconds?: unknown; nanos?: number | null } | null | undefined): number | null {
  return time == null ? null : Number(time.seconds ?? 0) * 1000 + (time.nanos ?? 0) / 1e6;
}

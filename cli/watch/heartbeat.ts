import type { Client } from '@temporalio/client';
import type { Payload } from '@temporalio/common';
import type { GpuUse } from '../../host/gpu-use.ts';
import type { TrainingProgress } from '../../host/follow-training.ts';
import { formatBytes } from '../../host/disk.ts';
import { durationText } from '../../host/duration.ts';

/** What an activity last said about itself: a training's progress, or how much of what is done. */
export type Heartbeat = Partial<TrainingProgress> & {
  gpus?: GpuUse[];
  /** `a GPU slot`, and whose stages hold them all. */
  waitingFor?: string;
  heldBy?: string[];
  /** Of a stage that counts: `done` of `total` `unit`s. */
  done?: number;
  total?: number;
  unit?: string;
  asking?: string;
  message?: string;
};

/** A heartbeat's details, decoded as the connection is set to. */
export async function readHeartbeat(client: Client, payloads: unknown): Promise<Heartbeat> {
  const { payloadConverter, payloadCodecs } = client.options.loadedDataConverter;
  let encoded = (payloads ?? []) as Payload[];
  for (const codec of [...payloadCodecs].reverse()) encoded = await codec.decode(encoded);
  const [first] = encoded;
  return first === undefined ? {} : payloadConverter.fromPayload<Heartbeat>(first);
}

/** A heartbeat as one line; empty when it says nothing yet. */
export function heartbeatText(heartbeat: Heartbeat): string {
  const { step, maxSteps, loss, etaSeconds, phase, asking, message, done, total, unit = '' } = heartbeat;
  if (step !== undefined && step > 0 && phase !== 'starting') {
    const lossText = typeof loss === 'number' ? `, loss ${loss.toPrecision(3)}` : '';
    const left = typeof etaSeconds === 'number' ? `, ${durationText(etaSeconds)} left` : '';
    return `step ${step} of ${maxSteps ?? '?'}${lossText}${left}`;
  }
  if (phase !== undefined) return phase;
  const what = asking ?? message ?? '';
  if (done === undefined || total === undefined) return what;
  const count = unit === 'bytes' ? `${formatBytes(done)} of ${formatBytes(total)}` : `${done}/${total} ${unit}`;
  return `${what} ${count}`.trim();
}

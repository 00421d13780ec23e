import { messageOf } from '../errors.ts';
import { runPython } from '../python.ts';

export interface Thumbnail {
  /** A data URL. */
  source: string;
  width: number;
  height: number;
}

export interface Thumbnails {
  byPath: Map<string, Thumbnail>;
  /** Why there are none, if making them failed as a whole. */
  problem: string | null;
}

/** Bytes of all pictures of a report, as they stand in the page. */
const MOST_BYTES = 1_500_000;
const TIMEOUT_MS = 60_000;

/** Small copies of pictures to stand in a page, the first ones first, until they take `MOST_BYTES`; unreadable ones are left out. */
export async function makeThumbnails(paths: string[]): Promise<Thumbnails> {
  if (paths.length === 0) return { byPath: new Map(), problem: null };
  try {
    const { thumbnails } = await runPython<{ thumbnails: ({ path: string } & Thumbnail)[] }>(
      'trainer/thumbnails.py',
      ['--most-bytes', String(MOST_BYTES), '--', ...new Set(paths)],
      { cancelSignal: AbortSignal.timeout(TIMEOUT_MS) },
    );
    return { byPath: new Map(thumbnails.map(({ path, ...thumbnail }) => [path, thumbnail])), problem: null };
  } catch (error) {
    return { byPath: new Map(), problem: messageOf(error).split('\n')[0] ?? '' };
  }
}

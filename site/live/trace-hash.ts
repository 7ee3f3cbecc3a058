// # The hash of a trace
//
// Two runs are the same run if their traces are the same bytes. The hash is SHA-256 over the events' lines of JSON and the count of events dropped,
// and the suite computes it in the same way, so a reader can hold the number in this page against the one in a results file.

import { type Timed, traceLine } from '../../chapters/01-hardware-background/trace.ts';

const LINES_AT_ONCE = 10_000;

/** Hexadecimal digest; null where the browser offers no digest (a page served neither securely nor from this computer). */
export async function traceHash(events: readonly Timed[], dropped: number): Promise<string | null> {
  const { subtle } = globalThis.crypto ?? {};
  if (!subtle) return null;
  const encoder = new TextEncoder();
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < events.length; at += LINES_AT_ONCE) {
    pieces.push(
      encoder.encode(
        events
          .slice(at, at + LINES_AT_ONCE)
          .map((event) => `${traceLine(event)}\n`)
          .join(''),
      ),
    );
  }
  pieces.push(encoder.encode(String(dropped)));
  const all = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  const digest = new Uint8Array(await subtle.digest('SHA-256', all));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

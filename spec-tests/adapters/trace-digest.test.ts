import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { Recorder, type TraceEvent, traceLine } from '../../chapters/01-hardware-background/trace.ts';
import { ALL } from '../quick.ts';
import { TraceDigest } from './trace-digest.ts';

const event = (i: number): TraceEvent =>
  i % 3 === 0 ? { kind: 'console', byte: i & 255 } : { kind: 'kvm_exit', vcpu: 0, reason: `R${i % 7}`, rip: BigInt(i) << 12n, qualification: 0n };

describe('the digest of a trace', () => {
  // Both keep a million, unless they are told otherwise.
  const RUNS = [0, 1, 39, 81, 5_000, ...(ALL ? [1_000_001] : [])].map((count): { count: number; limit?: number } => ({ count }));
  const LIMITED = [1_000, 1_001, 5_000].map((count) => ({ count, limit: 1_000 }));
  it.each([...RUNS, ...LIMITED])('is that of what a recorder keeps: $count events, limit $limit', ({ count, limit }) => {
    const [digest, recorder] = [new TraceDigest(limit), new Recorder(limit === undefined ? {} : { limit })];
    for (const trace of [digest, recorder]) {
      for (let i = 0; i < count; i++) {
        trace.now = i * 2;
        trace.emit(event(i));
      }
    }
    const lines = recorder.events.map(traceLine);
    const { events, tail } = digest.end;
    expect(events).toBe(recorder.events.length + recorder.dropped);
    expect(tail).toEqual(lines.slice(-40));
    const hash = createHash('sha256');
    for (const line of lines) hash.update(`${line}\n`);
    expect(digest.finish()).toBe(hash.update(String(recorder.dropped)).digest('hex'));
  });
});

import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { Recorder, type TraceEvent, traceLine } from '../../chapters/01-hardware-background/trace.ts';
import { TraceDigest } from './trace-digest.ts';

const event = (i: number): TraceEvent =>
  i % 3 === 0 ? { kind: 'console', byte: i & 255 } : { kind: 'kvm_exit', vcpu: 0, reason: `R${i % 7}`, rip: BigInt(i) << 12n, qualification: 0n };

describe('the digest of a trace', () => {
  it.each([0, 1, 39, 81, 5_000, 1_000_001])('of %i events is that of what a recorder keeps', (count) => {
    const [digest, recorder] = [new TraceDigest(), new Recorder()];
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

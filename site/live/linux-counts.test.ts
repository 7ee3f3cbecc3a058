import { describe, expect, it } from 'vitest';
import { NS_PER_TICK } from '../../chapters/02-kvm-objects/soft/virtual-clock.ts';
import type { Lookup } from '../../chapters/05-pio-mmio/route.ts';
import { Counts, KEPT_EVENTS, STEP_MS, STEPS } from './linux-counts.ts';

const exit = (reason: string) => ({ kind: 'kvm_exit', vcpu: 0, reason, rip: 0n, qualification: 0n }) as const;
const ticksOf = (ms: number): number => (ms * 1e6) / NS_PER_TICK;
const device = (name: string) => ({ device: name, offset: 0, register: null, text: '' });
const lookup: Lookup = (space, address, inKernel = false) => {
  if (inKernel) return space === 'port' && address === 0x20 ? device('8259A') : null;
  if (space === 'port') return address >= 0x3f8 && address < 0x400 ? device('serial') : null;
  return address >= 0xfeb0_0000 && address < 0xfeb0_0400 ? device(address < 0xfeb0_0200 ? 'disk' : 'network') : null;
};

describe('the exit timeline', () => {
  it('has exits by reason in steps of virtual time; the last step is told again when it has grown', () => {
    const counts = new Counts();
    counts.emit(exit('HLT'));
    counts.now = ticksOf(2.5 * STEP_MS);
    counts.emit(exit('CPUID'));
    counts.emit(exit('CPUID'));
    expect(counts.reasons).toEqual(['HLT', 'CPUID']);
    expect(counts.totals).toEqual([1, 2]);
    expect(counts.takeSteps()).toEqual([
      { step: 0, counts: [1] },
      { step: 2, counts: [0, 2] },
    ]);
    counts.emit(exit('HLT'));
    expect(counts.takeSteps()).toEqual([{ step: 2, counts: [1, 2] }]);
  });

  it('keeps the last steps of a run without end', () => {
    const counts = new Counts();
    for (let step = 0; step < 3 * STEPS; step++) {
      counts.now = ticksOf(step * STEP_MS);
      counts.emit(exit('HLT'));
    }
    const steps = counts.takeSteps();
    expect(steps).toHaveLength(STEPS);
    expect(steps[0]?.step).toBe(2 * STEPS);
    expect(counts.totals).toEqual([3 * STEPS]);
  });
});

describe('device traffic', () => {
  it('is counted by who answered', () => {
    const counts = new Counts();
    counts.emit({ kind: 'kvm_pio', rw: 'in', port: 0x3fd, size: 1, count: 1, value: 0 });
    counts.emit({ kind: 'kvm_pio', rw: 'out', port: 0x3f8, size: 1, count: 3, value: 0 });
    counts.emit({ kind: 'kvm_pio', rw: 'out', port: 0x20, size: 1, count: 1, value: 0 });
    counts.emit({ kind: 'kvm_pio', rw: 'in', port: 0x3f7, size: 1, count: 1, value: 0 });
    counts.emit({ kind: 'kvm_mmio', rw: 'read', gpa: 0xfeb0_0010, len: 4, value: 0n });
    counts.emit({ kind: 'kvm_mmio', rw: 'write', gpa: 0xfeb0_0210, len: 4, value: 0n });
    counts.emit({ kind: 'kvm_fast_mmio', gpa: 0xfeb0_0250 });
    expect(counts.traffic(lookup)).toEqual([
      { device: 'serial', reads: 1, writes: 3 },
      { device: 'network', reads: 0, writes: 2 },
      { device: '8259A', reads: 0, writes: 1 },
      { device: 'disk', reads: 1, writes: 0 },
      { device: 'nobody answers', reads: 1, writes: 0 },
    ]);
  });

  it('takes no more memory for a guest that touches every address', () => {
    const counts = new Counts();
    for (let at = 0; at < 20_000; at++) counts.emit({ kind: 'kvm_mmio', rw: 'read', gpa: 0x1_0000_0000 + at * 4096, len: 4, value: 0n });
    expect(counts.traffic(lookup)).toEqual([{ device: 'nobody answers', reads: 20_000, writes: 0 }]);
  });
});

describe('the last events', () => {
  it('are kept while somebody looks, and only so many', () => {
    const counts = new Counts();
    counts.emit(exit('HLT'));
    expect(counts.latest).toEqual([]);
    counts.listening = true;
    for (let n = 0; n < KEPT_EVENTS + 7; n++) {
      counts.now = n;
      counts.emit(exit('HLT'));
    }
    expect(counts.latest).toHaveLength(KEPT_EVENTS);
    expect(counts.latest.map(({ t }) => t)).toEqual(Array.from({ length: KEPT_EVENTS }, (_, n) => n + 7));
    expect(counts.seen).toBe(KEPT_EVENTS + 7);
    counts.listening = false;
    expect(counts.latest).toEqual([]);
  });
});

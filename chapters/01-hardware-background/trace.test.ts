import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lineAt, type Timed, type TraceEvent, traceLine } from './trace.ts';

const byJson = (event: Timed): string => JSON.stringify(event, (_key, value) => (typeof value === 'bigint' ? `0x${value.toString(16)}` : value));

describe('the line of an event', () => {
  it.each<TraceEvent>([
    { kind: 'exception', vector: 14, errorCode: 2, cr2: 0xffff_8000_0000_1000n, rip: 0n },
    { kind: 'exception', vector: 6, errorCode: null, cr2: null, rip: 0x1_0000n },
    { kind: 'vmx', what: 'vmxon' },
    { kind: 'vmx', what: 'entry_failed', detail: 'a "quoted" reason\n' },
    { kind: 'kvm_pic_set_irq', chip: 1, pin: 3, coalesced: true },
    { kind: 'device', device: 'disk \u00e9', what: 'read', value: undefined as unknown as number },
    { kind: 'triple_fault' },
  ])('is its JSON: %o', (event) => {
    const timed = { t: 12_345, ...event };
    expect(traceLine(timed)).toBe(byJson(timed));
    expect(lineAt(12_345, event)).toBe(byJson(timed));
  });

  it('is the JSON of whatever an event may hold', () => {
    const value = fc.oneof(fc.double(), fc.integer(), fc.string(), fc.bigInt(), fc.boolean(), fc.constant(null), fc.constant(undefined));
    fc.assert(
      fc.property(fc.nat(), fc.dictionary(fc.stringMatching(/^[a-z]+$/), value), (t, fields) => {
        const timed = { ...fields, t: undefined, kind: 'device' } as unknown as TraceEvent;
        const { t: _, ...rest } = timed as Timed;
        expect(lineAt(t, timed)).toBe(byJson({ t, ...rest }));
      }),
    );
  });
});

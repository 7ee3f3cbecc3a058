import { describe, expect, it } from 'vitest';
import { type ApicMessage, DELIVERY, messageAsMsi, msiMessage } from './apic-message.ts';
import { BASE, bench, EN, X2APIC } from './laboratory.ts';
import { LAPIC } from './lapic-registers.ts';

describe('between APICs', () => {
  const message = (over: Partial<ApicMessage>): ApicMessage => ({
    vector: 0x41,
    mode: DELIVERY.FIXED,
    destination: 0,
    logical: false,
    level: true,
    levelTriggered: false,
    ...over,
  });

  it('physical destinations are IDs; 0xff is everybody', () => {
    const { bus, on, pending, taken, at } = bench(3);
    on();
    expect(bus.deliver(message({ destination: 2 }))).toBe(1);
    expect(pending()).toEqual(['2:41']);
    expect(bus.deliver(message({ destination: 7 }))).toBe(0);
    expect(bus.deliver(message({ destination: 0xff, vector: 0x51 }))).toBe(3);
    expect(pending()).toEqual(['0:51', '1:51', '2:51']);
    expect(bus.deliver(message({ destination: 0xff, mode: DELIVERY.NMI }))).toBe(3);
    at(1).setApicBase(BASE);
    expect(bus.deliver(message({ destination: 1 }))).toBe(0);
    expect(taken()).toHaveLength(3);
  });

  it('an ID that software has changed is the one that counts', () => {
    const { bus, on, pending, write } = bench(2);
    on();
    write(LAPIC.ID, 0x0900_0000, 1);
    expect([bus.deliver(message({ destination: 1 })), bus.deliver(message({ destination: 9 }))]).toEqual([0, 1]);
    expect(pending()).toEqual(['1:41']);
  });

  // ldr of the three processors, dfr, destination, who
  // biome-ignore format: table
  it.each([
    ['flat', [0x01, 0x02, 0x04], 0xffff_ffff, 0x05, [0, 2]],
    ['flat, two bits in one ID', [0x03, 0x02, 0x04], 0xffff_ffff, 0x02, [0, 1]],
    ['flat, nobody', [0x01, 0x02, 0x04], 0xffff_ffff, 0x80, []],
    ['flat, no ID given', [0, 0, 0], 0xffff_ffff, 0x01, []],
    ['flat, everybody', [0, 0, 0], 0xffff_ffff, 0xff, [0, 1, 2]],
    ['cluster', [0x11, 0x12, 0x21], 0x0fff_ffff, 0x13, [0, 1]],
    ['cluster, another', [0x11, 0x12, 0x21], 0x0fff_ffff, 0x21, [2]],
    ['cluster, everybody', [0x11, 0x12, 0x21], 0x0fff_ffff, 0xff, [0, 1, 2]],
    ['cluster, none of its members', [0x11, 0x12, 0x21], 0x0fff_ffff, 0x14, []],
    ['a model that there is not', [0x11, 0x12, 0x21], 0x7fff_ffff, 0x11, []],
  ] as const)('logical destinations: %s', (_, ldrs, dfr, destination, who) => {
    const { bus, on, pending, write } = bench(3);
    on();
    for (const [id, ldr] of ldrs.entries()) {
      write(LAPIC.DFR, dfr, id);
      write(LAPIC.LDR, ldr << 24, id);
    }
    bus.deliver(message({ destination, logical: true }));
    expect(pending()).toEqual(who.map((id) => `${id}:41`));
  });

  it('logical destinations of x2APIC: a cluster and a set of sixteen', () => {
    const { bus, apics, pending, at } = bench(34);
    for (const apic of apics) {
      apic.registers.write(LAPIC.SVR, 4, 0x1ffn);
      apic.setApicBase(BASE | EN | X2APIC, true);
    }
    bus.deliver(message({ destination: 0x1_8001, logical: true }), at(0));
    expect(pending()).toEqual(['16:41', '31:41']);
    bus.deliver(message({ destination: 0x2_0002, logical: true, vector: 0x42 }), at(0));
    expect(pending()).toEqual(['16:41', '31:41', '33:42']);
  });

  it('a device reaches everybody in x2APIC mode with 0xff; a processor with 0xffffffff', () => {
    const { bus, apics, at } = bench(3);
    for (const apic of apics) {
      apic.registers.write(LAPIC.SVR, 4, 0x1ffn);
      apic.setApicBase(BASE | EN | X2APIC, true);
    }
    expect(bus.deliver(message({ destination: 0xff }))).toBe(3);
    expect(bus.deliver(message({ destination: 0xff }), at(0))).toBe(0);
    expect(bus.deliver(message({ destination: 0xffff_ffff }), at(0))).toBe(3);
  });

  it('lowest priority picks one of those that software has enabled, by the vector', () => {
    const { bus, on, pending, write } = bench(4);
    on();
    write(LAPIC.SVR, 0xff, 1);
    for (const [id, ldr] of [1, 2, 4, 8].entries()) write(LAPIC.LDR, ldr << 24, id);
    for (const vector of [0x42, 0x43, 0x44])
      expect(bus.deliver(message({ vector, mode: DELIVERY.LOWEST_PRIORITY, destination: 0xff, logical: true }))).toBe(1);
    expect(pending()).toEqual(['0:42', '2:43', '3:44']);
    expect(bus.deliver(message({ mode: DELIVERY.LOWEST_PRIORITY, destination: 2, logical: true }))).toBe(0);
    expect(bus.deliver(message({ vector: 0x45, redirectionHint: true, destination: 0xff, logical: true }))).toBe(1);
  });

  // shorthand bits of ICR, who takes it when processor 1 of 3 sends
  it.each([
    [1, [1]],
    [2, [0, 1, 2]],
    [3, [0, 2]],
  ])('shorthand %i', (shorthand, who) => {
    const { on, write, pending } = bench(3);
    on();
    write(LAPIC.ICR2, 0x0200_0000, 1); // does not matter
    write(LAPIC.ICR, (shorthand << 18) | 0x41, 1);
    expect(pending()).toEqual(who.map((id) => `${id}:41`));
  });

  it('INIT, SIPI, NMI by ICR, to the destination in its high half', () => {
    const { write, taken, read } = bench(3);
    write(LAPIC.ICR2, 0x0200_0000);
    write(LAPIC.ICR, 0xc500); // INIT, level, asserted
    write(LAPIC.ICR, 0x8500); // and de-asserted: nothing
    write(LAPIC.ICR, 0x4608);
    write(LAPIC.ICR, 0xc4400);
    expect(taken()).toEqual([
      [2, 'init'],
      [2, 'sipi', 8],
      [1, 'nmi'],
      [2, 'nmi'],
    ]);
    write(LAPIC.ICR, 0x1fff);
    expect(read(LAPIC.ICR)).toBe(0x0fff); // never busy
  });

  it('an IPI is an edge, whatever its trigger bit says', () => {
    const { on, write, read, apic, eois } = bench(1);
    on();
    write(LAPIC.ICR, 0x4_8041);
    expect(read(LAPIC.TMR + 0x20)).toBe(0);
    apic.acknowledge();
    write(LAPIC.EOI, 0);
    expect(eois).toEqual([]);
  });

  it('two APICs cannot have one number', () => {
    const { bus, apic } = bench();
    expect(() => bus.add(apic)).toThrow(RangeError);
  });

  // biome-ignore format: table
  it.each([
    [0xfee0_0000, 0x0041, { vector: 0x41, mode: 0, destination: 0, logical: false, levelTriggered: false, redirectionHint: false }],
    [0xfee0_300c, 0x0141, { mode: 1, destination: 3, logical: true, redirectionHint: true }],
    [0xfeef_f000, 0xc441, { mode: 4, destination: 0xff, levelTriggered: true, level: true }],
    [0x1_fee0_1000, 0x0041, { destination: 0x01 }],
    [0x1_2300_fee0_4000, 0x0041, { destination: 0x1_2304 }],
  ])('the store of %x to %x is a message', (address, data, expected) => {
    expect(msiMessage(address, data)).toMatchObject(expected);
  });

  it('a message is the store that it came from', () => {
    for (const [address, data] of [
      [0xfee0_3004, 0xc141],
      [0xfeef_f000, 0x0041],
    ] as const)
      expect(messageAsMsi(msiMessage(address, data))).toEqual({ address, data });
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Width } from '../../03-vcpu-loop/devices/bus.ts';
import { DELIVERY } from './apic-message.ts';
import { BASE, BSP, bench, EN, ENABLE, X2APIC } from './laboratory.ts';
import type { LocalApic } from './lapic.ts';
import { LAPIC } from './lapic-registers.ts';

const MASKED = 0x10000;

const fixed = (apic: LocalApic, vector: number, level = false): number => apic.deliver(DELIVERY.FIXED, vector, true, level);

describe('a local APIC by itself', () => {
  it('comes up as the manual says', () => {
    const { read, apic } = bench();
    expect(apic.apicBase).toBe(BASE | EN | BSP);
    // biome-ignore format: table
    const expected: [keyof typeof LAPIC, number][] = [
      ['ID', 0], ['VERSION', 0x50014], ['TPR', 0], ['PPR', 0], ['LDR', 0], ['DFR', 0xffff_ffff], ['SVR', 0xff], ['ESR', 0], ['ICR', 0], ['ICR2', 0],
      ['TIMER', MASKED], ['THERMAL', MASKED], ['COUNTER', MASKED], ['LINT1', MASKED], ['ERROR', MASKED], ['INITIAL', 0], ['CURRENT', 0], ['DIVIDE', 0],
      ['LINT0', 0x700],
    ];
    for (const [name, value] of expected) expect([name, read(LAPIC[name])]).toEqual([name, value]);
  });

  it('has writable bits where the manual has them', () => {
    const { read, write } = bench();
    write(LAPIC.SVR, ENABLE);
    // biome-ignore format: table
    const expected: [keyof typeof LAPIC, number][] = [
      ['ID', 0xff00_0000], ['VERSION', 0x50014], ['TPR', 0xff], ['LDR', 0xff00_0000], ['DFR', 0xffff_ffff], ['SVR', 0x3ff], ['TIMER', 0x700ff], ['THERMAL', 0x107ff],
      ['COUNTER', 0x107ff], ['LINT0', 0x1a7ff], ['LINT1', 0x1a7ff], ['ERROR', 0x100ff], ['ICR2', 0xff00_0000], ['DIVIDE', 0xb],
    ];
    for (const [name, value] of expected) {
      write(LAPIC[name], 0xffff_ffff);
      expect([name, read(LAPIC[name]).toString(16)]).toEqual([name, value.toString(16)]);
    }
    write(LAPIC.DFR, 0);
    expect(read(LAPIC.DFR)).toBe(0x0fff_ffff);
  });

  it('delivers by priority class, against what is in service and TPR', () => {
    const { apic, on, write, read } = bench();
    on();
    for (const vector of [0x31, 0x41, 0x42]) fixed(apic, vector);
    expect(apic.acknowledge()).toBe(0x42);
    expect([apic.ppr, apic.pending()]).toEqual([0x40, -1]); // 0x41 is of the same class
    fixed(apic, 0x52);
    expect(apic.acknowledge()).toBe(0x52);
    write(LAPIC.EOI, 0);
    expect(apic.pending()).toBe(-1);
    write(LAPIC.EOI, 0);
    expect(apic.acknowledge()).toBe(0x41);
    write(LAPIC.EOI, 0);
    write(LAPIC.TPR, 0x30);
    expect([apic.pending(), read(LAPIC.PPR)]).toEqual([-1, 0x30]);
    write(LAPIC.TPR, 0x2f);
    expect([apic.pending(), read(LAPIC.PPR)]).toEqual([0x31, 0x2f]);
  });

  it.each([
    // tpr, in service, ppr: Intel SDM vol. 3, "Task and Processor Priorities"
    [0x00, -1, 0x00],
    [0x25, -1, 0x25],
    [0x25, 0x2f, 0x25],
    [0x25, 0x31, 0x30],
    [0x2f, 0x20, 0x2f],
    [0xff, 0xf0, 0xff],
    [0x0f, 0x1f, 0x10],
  ])('TPR %i, vector %i in service: PPR %i', (tpr, vector, ppr) => {
    const { apic, on } = bench();
    on();
    if (vector >= 0) {
      fixed(apic, vector);
      apic.acknowledge();
    }
    apic.tpr = tpr;
    expect(apic.ppr).toBe(ppr);
  });

  it('shows its three bit sets', () => {
    const { apic, on, read } = bench();
    on();
    fixed(apic, 0xef, true);
    fixed(apic, 0x45);
    expect([read(LAPIC.IRR + 0x70), read(LAPIC.IRR + 0x20), read(LAPIC.TMR + 0x70), read(LAPIC.TMR + 0x20)]).toEqual([0x8000, 0x20, 0x8000, 0]);
    apic.acknowledge();
    expect([read(LAPIC.IRR + 0x70), read(LAPIC.ISR + 0x70)]).toEqual([0, 0x8000]);
    fixed(apic, 0xef, false);
    expect(read(LAPIC.TMR + 0x70)).toBe(0);
  });

  it('is one bit for a vector, in request and in service at once', () => {
    const { apic, on, write } = bench();
    on();
    expect([fixed(apic, 0x40), fixed(apic, 0x40)]).toEqual([1, 1]);
    apic.acknowledge();
    fixed(apic, 0x40);
    expect(apic.pending()).toBe(-1);
    write(LAPIC.EOI, 0);
    expect([apic.acknowledge(), apic.pending()]).toEqual([0x40, -1]);
  });

  it('gives the spurious vector when there is nothing, and puts nothing in service', () => {
    const { apic, write, read } = bench();
    write(LAPIC.SVR, ENABLE | 0x5f);
    expect(apic.acknowledge()).toBe(0x5f);
    expect(read(LAPIC.ISR + 0x20)).toBe(0);
  });

  it('tells the I/O APICs of the end of level-triggered vectors only', () => {
    const { apic, on, write, eois } = bench();
    on();
    for (const [vector, level] of [
      [0x41, true],
      [0x51, false],
    ] as const) {
      fixed(apic, vector, level);
      apic.acknowledge();
      write(LAPIC.EOI, 0);
    }
    write(LAPIC.EOI, 0); // nothing in service
    expect(eois).toEqual([0x41]);
  });

  it('can be told not to, where the version says so', () => {
    for (const suppressEoi of [false, true]) {
      const { apic, write, read, eois } = bench(1, { suppressEoi });
      write(LAPIC.SVR, 0x11ff);
      expect([read(LAPIC.VERSION), read(LAPIC.SVR)]).toEqual(suppressEoi ? [0x105_0014, 0x11ff] : [0x5_0014, 0x1ff]);
      fixed(apic, 0x41, true);
      apic.acknowledge();
      write(LAPIC.EOI, 0);
      expect(eois).toEqual(suppressEoi ? [] : [0x41]);
    }
  });

  it('takes no vector while software has it off, but everything else', () => {
    const { apic, events } = bench();
    expect([fixed(apic, 0x40), apic.deliver(DELIVERY.LOWEST_PRIORITY, 0x40, true, false)]).toEqual([0, 0]);
    for (const mode of [DELIVERY.NMI, DELIVERY.SMI, DELIVERY.INIT, DELIVERY.STARTUP]) expect(apic.deliver(mode, 0x12, true, false)).toBe(1);
    expect(events).toEqual([
      [0, 'nmi'],
      [0, 'smi'],
      [0, 'init'],
      [0, 'sipi', 0x12],
    ]);
    expect([apic.deliver(DELIVERY.EXTINT, 0x40, true, false), apic.deliver(DELIVERY.REMOTE_READ, 0, true, false)]).toEqual([0, 0]);
    expect([apic.deliver(DELIVERY.INIT, 0, false, true), events.length]).toEqual([0, 4]); // de-assert
  });

  it('keeps what it had when software switches it off, and masks its local sources for good', () => {
    const { apic, on, write, read } = bench();
    on();
    fixed(apic, 0x40);
    write(LAPIC.TIMER, 0x33);
    write(LAPIC.SVR, 0xff);
    expect([apic.pending(), read(LAPIC.TIMER)]).toEqual([0x40, MASKED | 0x33]);
    write(LAPIC.TIMER, 0x33);
    expect(read(LAPIC.TIMER)).toBe(MASKED | 0x33);
    on();
    expect(read(LAPIC.TIMER)).toBe(MASKED | 0x33);
    write(LAPIC.TIMER, 0x33);
    expect(read(LAPIC.TIMER)).toBe(0x33);
  });

  it('links CR8 and TPR', () => {
    const { apic, read, write } = bench();
    write(LAPIC.TPR, 0x5a);
    expect(apic.cr8).toBe(5);
    apic.cr8 = 0xc;
    expect(read(LAPIC.TPR)).toBe(0xc0);
  });

  it('listens to the 8259s through an open LINT0 in ExtINT mode, or when it is off', () => {
    const { apic, on, write } = bench(2);
    on();
    const cases = ([0x700, MASKED | 0x700, 0x000, 0x400] as const).map((lvt) => {
      write(LAPIC.LINT0, lvt);
      return apic.acceptsExtInt();
    });
    expect(cases).toEqual([true, false, false, false]);
    apic.setApicBase(BASE | BSP);
    expect(apic.acceptsExtInt()).toBe(true);
  });

  it('counts errors, shows them after a write to ESR, and interrupts', () => {
    const { apic, on, write, read } = bench();
    on();
    write(LAPIC.ERROR, 0xe1);
    write(LAPIC.ICR, 0x0004_0005); // to itself, vector 5
    expect([read(LAPIC.ESR), apic.pending()]).toEqual([0, 0xe1]);
    write(LAPIC.ESR, 0);
    expect(read(LAPIC.ESR)).toBe(0x20);
    fixed(apic, 5); // from outside
    write(LAPIC.ESR, 0);
    expect(read(LAPIC.ESR)).toBe(0x40);
    write(LAPIC.ESR, 0);
    expect([read(LAPIC.ESR), read(LAPIC.IRR)]).toEqual([0, 0]);
    read(0x3f0);
    read(0x00);
    write(LAPIC.VERSION, 1);
    write(LAPIC.ESR, 0);
    expect(read(LAPIC.ESR)).toBe(0x80);
  });

  it('does not ask again and again when the error vector is itself illegal', () => {
    const { on, write, read } = bench();
    on();
    write(LAPIC.ERROR, 0x03);
    write(LAPIC.ICR, 0x0004_0005);
    write(LAPIC.ESR, 0);
    expect(read(LAPIC.ESR)).toBe(0x20);
  });

  it('passes LINT1 on as its entry says', () => {
    const { apic, on, write, events } = bench();
    on();
    write(LAPIC.LINT1, 0x400);
    apic.lint(1, true);
    apic.lint(1, true);
    apic.lint(1, false);
    apic.lint(1, true);
    expect(events).toEqual([
      [0, 'nmi'],
      [0, 'nmi'],
    ]);
    write(LAPIC.LINT1, 0x44);
    apic.lint(1, false);
    apic.lint(1, true);
    expect(apic.pending()).toBe(0x44);
    apic.setApicBase(BASE | BSP);
    apic.lint(1, false);
    apic.lint(1, true);
    expect(events).toHaveLength(3);
  });

  it('has a timer whose interrupt can be masked', () => {
    const { apic, on, write, read, pass } = bench();
    on();
    write(LAPIC.DIVIDE, 0xb); // by 1
    write(LAPIC.TIMER, 0x20041);
    write(LAPIC.INITIAL, 1000);
    pass(400);
    expect([read(LAPIC.CURRENT), read(LAPIC.INITIAL), apic.pending()]).toEqual([600, 1000, -1]);
    pass(600);
    expect(apic.acknowledge()).toBe(0x41);
    write(LAPIC.EOI, 0);
    write(LAPIC.TIMER, MASKED | 0x20041);
    pass(1000);
    expect(apic.pending()).toBe(-1);
  });

  it('divides as the register says', () => {
    for (const [bits, divide] of [
      [0, 2],
      [1, 4],
      [2, 8],
      [3, 16],
      [8, 32],
      [9, 64],
      [10, 128],
      [11, 1],
    ] as const) {
      const { write, read, pass } = bench();
      write(LAPIC.DIVIDE, bits);
      write(LAPIC.INITIAL, 1000);
      pass(128);
      expect(read(LAPIC.CURRENT)).toBe(1000 - 128 / divide);
    }
  });

  it('has a deadline mode, in which the count cannot be written', () => {
    const { apic, on, write, read, pass } = bench();
    on();
    apic.tscDeadline = 5n;
    expect(apic.tscDeadline).toBe(0n);
    write(LAPIC.TIMER, 0x40041);
    write(LAPIC.INITIAL, 1000);
    expect(read(LAPIC.INITIAL)).toBe(0);
    apic.tscDeadline = 7n;
    pass(69);
    expect([apic.pending(), apic.tscDeadline]).toEqual([-1, 7n]);
    pass(1);
    expect([apic.pending(), apic.tscDeadline]).toEqual([0x41, 0n]);
  });

  it('is written by words and read by parts of words', () => {
    const { apic, write, read } = bench();
    const { registers } = apic;
    write(LAPIC.TPR, 0x42);
    registers.write(LAPIC.TPR, 1, 0x99n);
    registers.write(LAPIC.TPR, 8, 0x99n);
    registers.write(LAPIC.TPR + 4, 4, 0x99n);
    expect(read(LAPIC.TPR)).toBe(0x42);
    expect([registers.read(LAPIC.VERSION + 2, 2), registers.read(LAPIC.VERSION, 1), registers.read(LAPIC.VERSION + 3, 2)]).toEqual([5n, 0x14n, 0n]);
    expect(registers.read(LAPIC.VERSION + 4, 4)).toBe(0n);
  });
});

describe('the modes of IA32_APIC_BASE', () => {
  const OFF = BASE;
  const XAPIC = BASE | EN;
  const X2 = BASE | EN | X2APIC;
  // biome-ignore format: table
  it.each([
    ['off', OFF, 'off', OFF, true], ['off', OFF, 'xAPIC', XAPIC, true], ['off', OFF, 'x2APIC', X2, false], ['off', OFF, 'invalid', BASE | X2APIC, false],
    ['xAPIC', XAPIC, 'off', OFF, true], ['xAPIC', XAPIC, 'x2APIC', X2, true], ['xAPIC', XAPIC, 'invalid', BASE | X2APIC, false],
    ['x2APIC', X2, 'off', OFF, true], ['x2APIC', X2, 'xAPIC', XAPIC, false], ['x2APIC', X2, 'invalid', BASE | X2APIC, false],
  ] as const)('%s (%x) to %s (%x): %s', (_, from, __, to, allowed) => {
    const { apic } = bench();
    expect(apic.setApicBase(from, true)).toBe(true);
    expect(apic.setApicBase(to)).toBe(allowed);
    expect(apic.apicBase).toBe(allowed ? to : from);
  });

  it('refuses reserved bits, and x2APIC where CPUID does not have it', () => {
    const { apic } = bench(1, { physicalAddressBits: 40, x2apic: false });
    for (const bit of [0n, 1n, 7n, 9n, 10n, 40n, 63n]) expect([bit, apic.setApicBase(XAPIC | (1n << bit))]).toEqual([bit, false]);
    expect(apic.setApicBase(0xff_ffff_f000n | EN)).toBe(true);
    expect(apic.baseAddress).toBe(0xff_ffff_f000);
  });

  it('answers nothing while it is off', () => {
    const { apic, on, read, write } = bench();
    on();
    fixed(apic, 0x40);
    apic.setApicBase(OFF);
    write(LAPIC.TPR, 0x55);
    expect([apic.pending(), read(LAPIC.TPR), apic.enabled]).toEqual([-1, 0xffff_ffff, false]);
    apic.setApicBase(XAPIC);
    expect([read(LAPIC.TPR), apic.pending()]).toEqual([0, 0x40]);
  });

  it('in x2APIC mode has MSRs and no page', () => {
    const { apic, read } = bench(20);
    const other = apic;
    const { at } = bench(20);
    const eighteen = at(18);
    eighteen.setApicBase(X2, true);
    expect(eighteen.registers.read(LAPIC.ID, 4)).toBe(0xffff_ffffn);
    expect([eighteen.readMsr(0x802), eighteen.readMsr(0x80d), eighteen.readMsr(0x803)]).toEqual([18n, 0x1_0004n, 0x50014n]);
    expect([read(LAPIC.VERSION), other.readMsr(0x803), other.writeMsr(0x808, 0n)]).toEqual([0x50014, null, false]);
  });

  it('faults where an MSR is not, or not so', () => {
    const { apic } = bench();
    apic.setApicBase(X2);
    // biome-ignore format: table
    const readable = [2, 3, 8, 0xa, 0xd, 0xf, 0x10, 0x17, 0x18, 0x1f, 0x20, 0x27, 0x28, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3e];
    // biome-ignore format: table
    const writable = [8, 0xb, 0xf, 0x28, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e, 0x3f];
    for (let index = 0; index < 0x40; index++) {
      const inArray = index > 0x10 && index < 0x28;
      if (!inArray) expect([index, apic.readMsr(0x800 + index) !== null]).toEqual([index, readable.includes(index)]);
      expect([index, apic.writeMsr(0x800 + index, 0n)]).toEqual([index, writable.includes(index)]);
      if (writable.includes(index) && index !== 0x30) expect([index, apic.writeMsr(0x800 + index, 1n << 32n)]).toEqual([index, false]);
    }
    for (const index of [0x0b, 0x28]) expect(apic.writeMsr(0x800 + index, 1n)).toBe(false);
    expect([apic.readMsr(0x7ff), apic.readMsr(0x840), apic.writeMsr(0x840, 0n)]).toEqual([null, null, false]);
  });

  it('sends with one write of 64 bits', () => {
    const { apics, at, pending } = bench(3);
    for (const apic of apics) {
      apic.registers.write(LAPIC.SVR, 4, 0x1ffn);
      apic.setApicBase(X2 | (apic.id === 0 ? BSP : 0n), true);
    }
    expect(at(0).writeMsr(0x830, (2n << 32n) | 0x41n)).toBe(true);
    expect(at(0).readMsr(0x830)).toBe((2n << 32n) | 0x41n);
    for (const bit of [13n, 16n, 17n, 20n, 31n]) expect([bit, at(0).writeMsr(0x830, 0x41n | (1n << bit))]).toEqual([bit, false]);
    expect(at(0).writeMsr(0x83f, 0x51n)).toBe(true);
    expect(pending()).toEqual(['0:51', '2:41']);
    expect(at(1).writeMsr(0x830, (0xffff_ffffn << 32n) | 0x61n)).toBe(true);
    expect(pending()).toEqual(['0:61', '1:61', '2:61']);
  });

  it('is saved with the ID in the upper byte, or in 32 bits', () => {
    const { at } = bench(4);
    const apic = at(3);
    apic.setApicBase(X2, true);
    const id = (format: boolean): number => new DataView(apic.save(format).buffer).getUint32(LAPIC.ID, true);
    expect([id(false), id(true)]).toEqual([3 << 24, 3]);
    const foreign = apic.save(true);
    new DataView(foreign.buffer).setUint32(LAPIC.ID, 4, true);
    expect([apic.load(foreign, true), apic.load(foreign, false), apic.load(new Uint8Array(1000))]).toEqual([false, true, false]);
  });
});

describe('reset, INIT and state', () => {
  it('forgets everything at INIT but the ID and the mode', () => {
    const { at, write, read } = bench(2);
    const apic = at(1);
    write(LAPIC.SVR, 0x1ff, 1);
    write(LAPIC.ID, 0x0700_0000, 1);
    write(LAPIC.LDR, 0x0200_0000, 1);
    write(LAPIC.TPR, 0x20, 1);
    fixed(apic, 0x40);
    apic.init();
    expect([read(LAPIC.ID, 1), read(LAPIC.LDR, 1), read(LAPIC.TPR, 1), read(LAPIC.SVR, 1), read(LAPIC.LINT0, 1), apic.pending()]).toEqual([
      0x0700_0000,
      0,
      0,
      0xff,
      MASKED,
      -1,
    ]);
    apic.setApicBase(BASE | EN | X2APIC);
    apic.init();
    expect([apic.x2apicMode, apic.readMsr(0x80d)]).toEqual([true, 2n]);
    apic.reset();
    expect([apic.apicBase, read(LAPIC.ID, 1)]).toEqual([BASE | EN, 0x0100_0000]);
  });

  it('saves and loads what it is, the running timer too', () => {
    const { apic, on, write, pass } = bench();
    on();
    write(LAPIC.DIVIDE, 0xb);
    write(LAPIC.TIMER, 0x20041);
    write(LAPIC.INITIAL, 1000);
    fixed(apic, 0x61, true);
    fixed(apic, 0x51);
    apic.acknowledge();
    pass(300);
    const state = apic.save();
    const view = new DataView(state.buffer);
    expect([LAPIC.CURRENT, LAPIC.PPR, LAPIC.ISR + 0x30, LAPIC.TMR + 0x30, LAPIC.IRR + 0x20].map((at) => view.getUint32(at, true))).toEqual([
      700, 0x60, 2, 2, 0x20000,
    ]);
    const other = bench();
    expect(other.apic.load(state)).toBe(true);
    expect(other.apic.save()).toEqual(state);
    other.pass(699);
    expect(other.apic.ppr).toBe(0x60);
    other.write(LAPIC.EOI, 0);
    expect([other.apic.pending(), other.eois]).toEqual([0x51, [0x61]]);
    other.apic.acknowledge();
    other.write(LAPIC.EOI, 0);
    other.pass(1);
    expect(other.apic.pending()).toBe(0x41);
  });

  it('survives any state and any access', () => {
    const widths: Width[] = [1, 2, 4, 8];
    const access = fc.tuple(fc.integer({ min: 0, max: 0xfff }), fc.nat({ max: 0xffff_ffff }), fc.nat({ max: 5 }));
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1024, maxLength: 1024 }), fc.array(access, { maxLength: 60 }), (state, accesses) => {
        const { apic, pass } = bench(2);
        apic.load(state);
        for (const [offset, value, kind] of accesses) {
          if (kind < 4) apic.registers.write(kind === 2 ? offset & 0xff0 : offset, widths[kind] as Width, BigInt(value));
          else if (kind === 4) apic.registers.read(offset, 4);
          else pass(value);
          const vector = apic.pending();
          if (vector >= 0) expect(apic.acknowledge()).toBe(vector);
        }
        expect(apic.save()).toHaveLength(1024);
      }),
      { numRuns: 200, seed: 82489 },
    );
  });
});

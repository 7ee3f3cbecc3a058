import { describe, expect, it, vi } from 'vitest';
import { Fault, VECTOR } from '../faults.ts';
import { PhysicalMemory } from '../physical-memory.ts';
import { AR, FLAG, MODE, OFFSET, SEG, SLOT } from '../state.ts';
import { CodeCache, IDLE_WRITES } from './code-cache.ts';
import { readFlags, writeFlags } from './flags.ts';
import { FlatMachine } from './flat-machine.ts';
import { TLB_ENTRY } from './interpreter-functions.ts';
import { JumpCache } from './jump-cache.ts';
import { REP_ITERATIONS } from './micro-ops/strings.ts';

const { RAX, RCX, RDX, RBX, RSP, RSI, RDI, RIP } = SLOT;
const hex = (text: string): number[] =>
  text
    .trim()
    .split(/\s+/)
    .map((byte) => Number.parseInt(byte, 16));
const fault = (vector: number, errorCode: number | null = 0) => ({ kind: 'fault', fault: expect.objectContaining({ vector, errorCode }) });
const icount = (m: FlatMachine): number => m.state.getNumber(OFFSET.ICOUNT);

describe('running', () => {
  it('executes a loop and stops at HLT', () => {
    const m = new FlatMachine();
    // mov ecx,10; again: add eax,3; dec ecx; cmp ecx,0; jne again; hlt
    expect(m.run(hex('b9 0a 00 00 00 83 c0 03 ff c9 83 f9 00 75 f6 f4'))).toEqual({ kind: 'stop' });
    expect(m.state.slot(RAX)).toBe(30n);
    expect(m.state.slot(RIP)).toBe(0x1010n);
    expect(icount(m)).toBe(1 + 4 * 10 + 1);
  });

  it('stops at the deadline after exactly that many instructions, wherever that is', () => {
    const code = hex('ff c0 ff c3 ff c1 eb f8'); // inc eax; inc ebx; inc ecx; jmp
    for (let n = 0; n < 12; n++) {
      const m = new FlatMachine();
      expect(m.run(code, { instructions: n })).toEqual({ kind: 'deadline' });
      expect(icount(m)).toBe(n);
      expect(m.state.slot(RIP)).toBe(0x1000n + [0n, 2n, 4n, 6n][n % 4]!);
    }
  });

  it('single steps give the same result as a run', () => {
    const code = hex('b9 05 00 00 00 01 c8 50 5a 48 d1 e2 e2 f7 f4');
    const whole = new FlatMachine();
    const stepped = new FlatMachine();
    for (const m of [whole, stepped]) m.state.setSlotNumber(RSP, 0x8000);
    whole.run(code);
    let stop = stepped.run(code, { instructions: 1 });
    while (stop.kind === 'deadline') stop = stepped.resume(1);
    expect(stop).toEqual({ kind: 'stop' });
    for (let n = 0; n < 18; n++) expect(stepped.state.slot(n)).toBe(whole.state.slot(n));
    expect(readFlags(stepped.state)).toBe(readFlags(whole.state));
    expect(icount(stepped)).toBe(icount(whole));
  });

  it('leaves at a boundary while EVENTS is set', () => {
    const m = new FlatMachine();
    m.state.set32(OFFSET.EVENTS, 1);
    expect(m.run(hex('ff c0 f4'))).toEqual({ kind: 'events' });
    expect(m.state.slot(RAX)).toBe(0n);
  });

  it('looks at EVENTS right after a device access, not at the end of the block', () => {
    class WithDevice extends FlatMachine {
      override translate(linear: bigint, bytes: number, access: number): number {
        return linear >= 0x80000n ? -1 : super.translate(linear, bytes, access);
      }
      override writeSlow(_linear: bigint, _bytes: number, _value: bigint): void {
        this.state.set32(OFFSET.EVENTS, 1);
      }
    }
    const m = new WithDevice();
    m.state.setSlotNumber(RBX, 0x80000);
    expect(m.run(hex('89 03 ff c0 ff c0 f4'))).toEqual({ kind: 'events' });
    expect(m.state.slot(RIP)).toBe(0x1002n);
    expect(m.state.slot(RAX)).toBe(0n);
  });

  it('does not depend on how a run is sliced', () => {
    // A REP MOVSB of 10,000 bytes, then arithmetic.
    const code = hex('b9 10 27 00 00 f3 a4 ff c0 01 c2 f4');
    const counts = [1, 2, 3, 1000].map((slice) => {
      const m = new FlatMachine();
      m.state.setSlotNumber(RSI, 0x20003);
      m.state.setSlotNumber(RDI, 0x30005);
      let stop = m.run(code, { instructions: slice });
      while (stop.kind === 'deadline') stop = m.resume(slice);
      return [icount(m), m.state.slot(RSI), m.state.slot(RDX)];
    });
    for (const count of counts) expect(count).toEqual(counts[0]);
    expect(counts[0]?.[0]).toBe(1 + Math.ceil(10_000 / REP_ITERATIONS) + 3);
  });
});

describe('faults are precise', () => {
  it('an instruction that faults has changed nothing, and is counted', () => {
    const m = new FlatMachine();
    m.state.setSlotNumber(RBX, 0x200000);
    writeFlags(m.state, FLAG.FIXED | FLAG.CF | FLAG.ZF);
    expect(m.run(hex('ff c0 01 03 f4'))).toEqual(fault(VECTOR.PF, 2)); // add [rbx], eax: faults as a write
    expect(m.state.slot(RIP)).toBe(0x1002n);
    expect(readFlags(m.state)).toBe(FLAG.FIXED | FLAG.CF); // INC keeps CF
    expect(icount(m)).toBe(2);
  });
  it('PUSH and POP leave the stack pointer alone', () => {
    const m = new FlatMachine();
    m.state.setSlotNumber(RSP, 0x300000);
    expect(m.run(hex('50'))).toEqual(fault(VECTOR.PF, 2));
    expect(m.run(hex('58'))).toEqual(fault(VECTOR.PF, 0));
    expect(m.state.slot(RSP)).toBe(0x300000n);
  });
  it('a string instruction says how far it got', () => {
    const m = new FlatMachine(64, 1 << 20);
    m.limit = 0x21000;
    m.state.setSlotNumber(RDI, 0x20ff0);
    m.state.setSlotNumber(RCX, 100);
    expect(m.run(hex('f3 aa'))).toEqual(fault(VECTOR.PF, 2));
    expect([m.state.slot(RDI), m.state.slot(RCX), m.state.slot(RIP)]).toEqual([0x21000n, 84n, 0x1000n]);
  });
  it('a non-canonical jump faults at the jump, a non-canonical access as its segment demands', () => {
    const m = new FlatMachine();
    m.state.setSlot(RAX, 1n << 47n);
    expect(m.run(hex('ff c1 ff e0'))).toEqual(fault(VECTOR.GP));
    expect(m.state.slot(RIP)).toBe(0x1002n);
    expect(m.run(hex('8b 18'))).toEqual(fault(VECTOR.GP));
    m.state.setSlot(RSP, (1n << 47n) + 8n);
    expect(m.run(hex('8b 1c 24'))).toEqual(fault(VECTOR.SS));
    expect(m.run(hex('50'))).toEqual(fault(VECTOR.SS));
  });
  it('a relative jump out of the canonical range faults at the jump', () => {
    const m = new FlatMachine();
    const top = (1n << 47n) - 0x1000n;
    const fetch = m.fetch.bind(m);
    m.fetch = (linear) => fetch(linear >= top ? linear - top : linear);
    m.memory.slice(0xff0, 8).set(hex('90 e9 00 10 00 00'));
    m.state.setSlot(RIP, top + 0xff0n);
    expect(m.resume(5)).toEqual(fault(VECTOR.GP));
    expect(m.state.slot(RIP)).toBe(top + 0xff1n);
  });
  it('running off the end of memory faults at the next instruction', () => {
    const m = new FlatMachine(64, 65536);
    m.memory.slice(0xfffe, 2).set([0x90, 0x90]);
    m.state.setSlotNumber(RIP, 0xfffe);
    expect(m.resume(10)).toEqual(fault(VECTOR.PF, 0));
    expect(m.state.slot(RIP)).toBe(0x10000n);
  });
  it('an instruction of sixteen bytes is #GP, an undefined one #UD', () => {
    const m = new FlatMachine();
    expect(m.run([...Array(15).fill(0x66), 0x90])).toEqual(fault(VECTOR.GP));
    expect(m.run(hex('0f 0b'))).toEqual(fault(VECTOR.UD, null));
    expect(m.run(hex('f0 01 c8'))).toEqual(fault(VECTOR.UD, null));
    expect(m.run(hex('06'))).toEqual(fault(VECTOR.UD, null));
  });
  it('division', () => {
    const m = new FlatMachine();
    expect(m.run(hex('f7 f1'))).toEqual(fault(VECTOR.DE, null));
    m.state.setSlot(RDX, 5n);
    m.state.setSlot(RAX, 0x123456789abcdefn);
    m.state.setSlot(RCX, 0xfedcba9876543211n);
    m.run(hex('48 f7 f1 f4'));
    const dividend = (5n << 64n) + 0x123456789abcdefn;
    expect([m.state.slot(RAX), m.state.slot(RDX)]).toEqual([dividend / 0xfedcba9876543211n, dividend % 0xfedcba9876543211n]);
  });
});

describe('code that changes', () => {
  it('the very next instruction', () => {
    const m = new FlatMachine();
    // mov byte [rip+0], 0x43: turns the following `inc eax` (ff c0) into `inc ebx` (ff c3)
    expect(m.run(hex('c6 05 01 00 00 00 c3 ff c0 f4'))).toEqual({ kind: 'stop' });
    expect([m.state.slot(RAX), m.state.slot(RBX)]).toEqual([0n, 1n]);
  });
  it('in a loop, again and again, with the fast path back in between', () => {
    const m = new FlatMachine();
    // mov ecx,100; again: mov [rip+1],cl (immediate of the next); mov al,imm8; add ebx,eax; dec ecx; jnz again; hlt
    m.run(hex('b9 64 00 00 00 88 0d 01 00 00 00 b0 00 01 c3 ff c9 75 f2 f4'), { instructions: 10_000 });
    expect(m.state.slot(RBX)).toBe(5050n);
  });
  it('by a string instruction, and through a crossing write', () => {
    const m = new FlatMachine();
    m.memory.slice(0x4000, 4).set(hex('b0 07 f4 f4'));
    m.run(hex('eb 00 b0 01 f4'), { at: 0x2000 });
    m.state.setSlotNumber(RSI, 0x4000);
    m.state.setSlotNumber(RDI, 0x2002);
    m.run(hex('b9 04 00 00 00 f3 a4 b8 02 20 00 00 ff e0'));
    expect(m.state.slot(RAX)).toBe(0x2007n);
    // mov [rbx],rcx over the page boundary, where `inc eax; hlt` was decoded
    m.run(hex('ff c0 f4'), { at: 0x3000 });
    m.state.setSlotNumber(RBX, 0x2ffe);
    m.state.setSlot(RCX, 0xf4f4f4c3ff909090n >> 8n);
    m.run(hex('48 89 0b b8 00 30 00 00 ff e0'));
    expect(m.state.slot(RBX)).toBe(0x2fffn);
  });
  it('behind the processor: memoryChanged', () => {
    const m = new FlatMachine();
    m.run(hex('b0 01 f4'));
    m.memory.slice(0x1001, 1)[0] = 9;
    m.engine.memoryChanged();
    m.state.setSlotNumber(RIP, 0x1000);
    m.resume(10);
    expect(m.state.slot(RAX)).toBe(9n);
  });
  it('pages hold code, and cease to', () => {
    const m = new FlatMachine();
    m.run(hex('b0 01 f4'));
    expect(m.engine.holdsCode(0x1fff)).toBe(true);
    expect(m.engine.holdsCode(0x2000)).toBe(false);
    m.engine.codeWritten(0x1003, 100);
    expect(m.engine.holdsCode(0x1000)).toBe(true); // beside the code
    m.engine.codeWritten(0x1002, 1);
    expect(m.engine.holdsCode(0x1000)).toBe(true); // its code is gone, and may come back at once
    for (let n = 0; n < IDLE_WRITES; n++) m.engine.codeWritten(0x1800, 1);
    expect(m.engine.holdsCode(0x1000)).toBe(false);
  });
  it('on a page with much else to write to, of which nothing has been decoded since', () => {
    const m = new FlatMachine(32, 1 << 20, { translate: false });
    m.state.setSlotNumber(RSP, 0x8000);
    m.memory.slice(0x1100, 3).set(hex('ff c0 c3')); // inc eax; ret
    m.run(hex('e8 fb 00 00 00 eb f9'), { instructions: 400 }); // again: call 1100; jmp again
    expect(m.state.slot(RAX)).toBe(100n);
    for (let n = 0; n <= 2 * IDLE_WRITES; n++) m.engine.codeWritten(0x1800, 1);
    m.engine.codeWritten(0x1101, 1);
    m.memory.slice(0x1101, 1)[0] = 0xc8; // dec eax
    m.resume(400);
    expect(m.state.slot(RAX)).toBe(0n);
  });
  /** Linear page 2000 is where `page` says. */
  class Remapped extends FlatMachine {
    page = 0x2000;
    override fetch(linear: bigint): number {
      return super.fetch(linear >> 12n === 2n ? BigInt(this.page) | (linear & 0xfffn) : linear);
    }
    remap(page: number): void {
      this.page = page;
      this.engine.flush();
    }
  }
  it('because its page is another one: every block of it', () => {
    const m = new Remapped(32, 1 << 20, { translate: false });
    m.state.setSlotNumber(RSP, 0x8000);
    m.memory.slice(0x2000, 6).set(hex('eb 00 83 c0 01 c3')); // jmp +0; add eax,1; ret
    m.memory.slice(0x5000, 6).set(hex('eb 00 83 c0 05 c3')); // the same with 5
    m.run(hex('e8 fb 0f 00 00 eb f9'), { instructions: 50 }); // again: call 2000; jmp again
    expect(m.state.slot(RAX)).toBe(10n);
    for (const [page, sum] of [
      [0x5000, 60n],
      [0x2000, 70n],
      [0x5000, 120n],
    ] as const) {
      m.remap(page);
      m.resume(50);
      expect(m.state.slot(RAX)).toBe(sum);
    }
  });
  it('because the page that it is on is another one', () => {
    const m = new Remapped(32, 1 << 20, { translate: false });
    m.memory.slice(0x2000, 5).set(hex('83 c0 01 eb fb')); // again: add eax,1; jmp again
    m.memory.slice(0x5000, 5).set(hex('83 c0 05 eb fb'));
    m.state.setSlotNumber(RIP, 0x2000);
    m.resume(20);
    expect(m.state.slot(RAX)).toBe(10n);
    m.remap(0x5000);
    m.resume(20);
    expect(m.state.slot(RAX)).toBe(60n);
  });
  it('more code than the arena holds', () => {
    const m = new FlatMachine(64, 4 << 20, { arenaBytes: 1 << 20 });
    // 40,000 times `inc eax; jmp +0`, each in its own blocks; twice round.
    const count = 40_000;
    const code = m.memory.slice(0x10000, count * 4 + 1);
    for (let n = 0; n < count; n++) code.set([0xff, 0xc0, 0xeb, 0x00], 4 * n);
    code[count * 4] = 0xf4;
    for (let round = 1; round <= 2; round++) {
      m.state.setSlotNumber(RIP, 0x10000);
      expect(m.resume(1e6)).toEqual({ kind: 'stop' });
      expect(m.state.slot(RAX)).toBe(BigInt(count * round));
    }
  });
});

describe('page boundaries', () => {
  it('an instruction across two pages needs both', () => {
    const m = new FlatMachine();
    m.memory.slice(0x2ffd, 6).set(hex('ff c0 b8 01 02 03'));
    m.limit = 0x3000;
    m.state.setSlotNumber(RIP, 0x2ffd);
    expect(m.resume(10)).toEqual(fault(VECTOR.PF));
    expect([m.state.slot(RIP), m.state.slot(RAX)]).toEqual([0x2fffn, 1n]);
    m.limit = 1 << 20;
    m.memory.slice(0x3003, 2).set([4, 0xf4]);
    expect(m.resume(10)).toEqual({ kind: 'stop' });
    expect(m.state.slot(RAX)).toBe(0x04030201n);
    m.engine.codeWritten(0x3000, 1);
    m.memory.slice(0x3000, 1)[0] = 0x55;
    m.state.setSlotNumber(RIP, 0x2fff);
    m.resume(10);
    expect(m.state.slot(RAX)).toBe(0x04030255n);
  });
  it('code on a page that is not RAM is fetched byte by byte', () => {
    class Rom extends FlatMachine {
      readonly rom = Uint8Array.from(hex('b9 03 00 00 00 ff c0 e2 fc f4'));
      override fetch(linear: bigint): number {
        return linear >= 0xf0000n ? -1 : super.fetch(linear);
      }
      override readSlow(linear: bigint, bytes: number, access: number): bigint {
        return linear >= 0xf0000n ? BigInt(this.rom[Number(linear) - 0xf0000] ?? 0xf4) : super.readSlow(linear, bytes, access);
      }
    }
    const m = new Rom();
    m.state.setSlotNumber(RIP, 0xf0000);
    expect(m.resume(100)).toEqual({ kind: 'stop' });
    expect(m.state.slot(RAX)).toBe(3n);
    expect(icount(m)).toBe(8);
  });
});

describe('strings', () => {
  const filled = (): FlatMachine => {
    const m = new FlatMachine();
    const data = m.memory.slice(0x20000, 0x4000);
    for (let i = 0; i < data.length; i++) data[i] = (i * 7 + (i >> 8)) & 0xff;
    return m;
  };
  it('copy with any overlap as one element after the other would', () => {
    for (const size of [1, 2, 4, 8]) {
      for (const [from, to, df] of [
        [0x20100, 0x22345, 0],
        [0x20100, 0x20100 + size, 0],
        [0x20105, 0x20100, 0],
        [0x21f00, 0x21f01, FLAG.DF],
        [0x20ff0, 0x21ff5, 0],
      ] as const) {
        const m = filled();
        const expected = m.memory.slice(0x20000, 0x4000).slice();
        const step = df ? -size : size;
        for (let i = 0; i < 300; i++)
          for (const [k, byte] of expected.slice(from - 0x20000 + i * step, from - 0x20000 + i * step + size).entries())
            expected[to - 0x20000 + i * step + k] = byte;
        writeFlags(m.state, FLAG.FIXED | df);
        m.state.setSlotNumber(RSI, from);
        m.state.setSlotNumber(RDI, to);
        m.state.setSlotNumber(RCX, 300);
        m.run([...hex({ 1: 'f3 a4', 2: '66 f3 a5', 4: 'f3 a5', 8: 'f3 48 a5' }[size]!), 0xf4]);
        expect(m.state.slot(RDI)).toBe(BigInt(to + 300 * step));
        expect(Buffer.compare(m.memory.slice(0x20000, 0x4000), expected)).toBe(0);
      }
    }
  });
  it('one iteration per step with TF, and when asked', () => {
    for (const set of [(m: FlatMachine) => writeFlags(m.state, FLAG.TF), (m: FlatMachine) => Object.assign(m.engine, { oneIteration: true })]) {
      const m = filled();
      set(m);
      m.state.setSlotNumber(RCX, 5);
      m.state.setSlotNumber(RDI, 0x20000);
      expect(m.run(hex('f3 aa f4'), { instructions: 1 })).toEqual({ kind: 'deadline' });
      expect([m.state.slot(RCX), m.state.slot(RIP)]).toEqual([4n, 0x1000n]);
      m.resume(4);
      expect([m.state.slot(RCX), m.state.slot(RIP)]).toEqual([0n, 0x1002n]);
    }
  });
});

describe('segments', () => {
  const real = (): FlatMachine => {
    const m = new FlatMachine(16);
    m.state.setSegBase(SEG.DS, 0x20000n);
    m.state.setSegBase(SEG.SS, 0x30000n);
    return m;
  };
  it('add their base in 16-bit code, and addresses wrap at 64 KiB', () => {
    const m = real();
    m.memory.slice(0x20010, 2).set([0x34, 0x12]);
    m.state.setSlotNumber(RBX, 0xfff0);
    m.state.setSlotNumber(RSI, 0x20);
    m.state.setSlotNumber(RSP, 2);
    expect(m.run(hex('8b 00 50 50 f4'))).toEqual({ kind: 'stop' });
    expect(m.state.slot(RAX)).toBe(0x1234n);
    expect(m.state.slot(RSP)).toBe(0xfffen);
    expect([...m.memory.slice(0x30000, 2), ...m.memory.slice(0x3fffe, 2)]).toEqual([0x34, 0x12, 0x34, 0x12]);
  });
  // An access of a word at offset FFFF, and code that runs past it: both beyond the limit of a real-mode segment.
  it('limits: #GP, #SS for the stack, #GP for code', () => {
    const m = real();
    m.state.setSlotNumber(RBX, 0xffff);
    expect(m.run(hex('8b 07'))).toEqual(fault(VECTOR.GP));
    expect(m.run(hex('36 8b 07'))).toEqual(fault(VECTOR.SS));
    m.state.setSlotNumber(RSP, 1);
    expect(m.run(hex('50'))).toEqual(fault(VECTOR.SS));
    expect(m.run(hex('b8 34 12'), { at: 0xfffe })).toEqual(fault(VECTOR.GP));
    expect(m.run(hex('66 e9 00 00 01 00'))).toEqual(fault(VECTOR.GP));
    expect(m.state.slot(RIP)).toBe(0x1000n);
    expect(m.run(hex('90'), { at: 0xffff })).toEqual(fault(VECTOR.GP));
    expect(m.state.slot(RIP)).toBe(0x10000n);
  });
  it('types: protected mode looks at the rights', () => {
    const m = new FlatMachine(32);
    const { state } = m;
    state.set32(OFFSET.MODE, MODE.CODE32 | MODE.STACK32 | MODE.PROTECTED);
    state.setSlotNumber(RBX, 0x5000);
    const write = hex('89 03 f4');
    const read = hex('8b 03 f4');
    const usual = AR.P | AR.S;
    const outcome = (rights: number, code: number[]): string => {
      state.setSegRights(SEG.DS, rights);
      const stop = m.run(code);
      return stop.kind === 'fault' ? `#${stop.fault.vector}` : stop.kind;
    };
    expect(outcome(usual | AR.WRITABLE, write)).toBe('stop');
    expect(outcome(usual, write)).toBe('#13');
    expect(outcome(usual, read)).toBe('stop');
    expect(outcome(usual | AR.CODE, read)).toBe('#13');
    expect(outcome(usual | AR.CODE | AR.READABLE, read)).toBe('stop');
    expect(outcome(usual | AR.CODE | AR.READABLE, write)).toBe('#13');
    expect(outcome(AR.UNUSABLE, read)).toBe('#13');
    state.setSegLimit(SEG.DS, 0x4fff); // expand-down: what is valid lies above the limit
    expect(outcome(usual | AR.WRITABLE | AR.EXPAND_DOWN | AR.DB, write)).toBe('stop');
    expect(outcome(usual | AR.WRITABLE, write)).toBe('#13');
    state.setSegLimit(SEG.DS, 0x5000);
    expect(outcome(usual | AR.WRITABLE | AR.EXPAND_DOWN | AR.DB, write)).toBe('#13');
  });
  it('flat 32-bit code cannot write through CS', () => {
    const m = new FlatMachine(32);
    m.state.setSlotNumber(RBX, 0x5000);
    expect(m.run(hex('2e 89 03'))).toEqual(fault(VECTOR.GP));
    expect(m.run(hex('2e 8b 03 f4'))).toEqual({ kind: 'stop' });
  });
  it('FS and GS add their base in 64-bit code', () => {
    const m = new FlatMachine();
    m.state.setSegBase(SEG.GS, 0x40000n);
    m.memory.slice(0x40008, 1)[0] = 0x5a;
    m.run(hex('65 8a 04 25 08 00 00 00 f4'));
    expect(m.state.slot(RAX)).toBe(0x5an);
  });
});

describe('the jump cache', () => {
  it('keeps two entries whose addresses fall together', () => {
    const first = 0x10000;
    let second = first;
    const memory = new PhysicalMemory({ ramBytes: 1 << 20, privateBytes: 16 << 20 });
    const cache = new JumpCache(memory);
    const put = (low: number): void => cache.put(low, 0, { context: 1, place: 0, record: 0, func: 0, argument: 0, heat: 0 });
    put(first);
    const place = memory.i32.indexOf(first, cache.at >> 2);
    do {
      second += 16;
      if (second % 4096 < 4000) put(second);
    } while (memory.i32[place] !== second);
    const m = new FlatMachine(64, 64 << 20, { translate: false });
    for (const [from, to] of [
      [first, second],
      [second, first],
    ] as const) {
      const page = from - (from % 4096);
      const entry = m.state.get32(OFFSET.TLB) + ((page / 4096) % TLB_ENTRY.COUNT) * TLB_ENTRY.BYTES;
      m.memory.view.setBigInt64(entry + TLB_ENTRY.EXEC, BigInt(page), true);
      m.memory.view.setInt32(entry + TLB_ENTRY.ADDEND, m.memory.ramOffset, true);
      const jump = m.memory.slice(from, 5);
      jump[0] = 0xe9;
      new DataView(jump.buffer, jump.byteOffset).setInt32(1, to - from - 5, true);
    }
    const find = vi.spyOn(CodeCache.prototype, 'find');
    try {
      m.state.setSlotNumber(RIP, first);
      expect(m.resume(3000)).toEqual({ kind: 'deadline' });
      expect(find.mock.calls.length).toBeLessThan(10); // each is a search, for which the interpreter is left
    } finally {
      find.mockRestore();
    }
  });
});

it('a broken host is our fault, not the guest’s', () => {
  const m = new FlatMachine();
  m.system = () => {
    throw new TypeError('broken');
  };
  expect(() => m.run(hex('f4'))).toThrow(TypeError);
  expect(new Fault(VECTOR.GP, 0)).not.toBeInstanceOf(Error);
});

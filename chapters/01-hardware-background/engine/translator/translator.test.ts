import { describe, expect, it } from 'vitest';
import { OFFSET, SLOT } from '../../state.ts';
import { readFlags, writeFlags } from '../flags.ts';
import { FlatMachine } from '../flat-machine.ts';
import { TLB_ENTRY } from '../interpreter-functions.ts';
import type { TranslationOptions } from '../surroundings.ts';
import { fillOrder, type Made, type Order } from './order.ts';
import type { Workshop } from './workshop.ts';

/** A repeatable source of numbers. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}
type Pick = (below: number) => number;

const CODE = 0xf80; // so that programs cross a page
const DATA = 0x8000;
const DEVICE = 0x40000;

/** A flat machine that writes down all that it is asked, and has a device. It remembers where instructions may be fetched from, as a TLB does. */
class Witness extends FlatMachine {
  readonly log: string[] = [];
  #note(what: string, ...numbers: (number | bigint)[]): void {
    this.log.push(`${this.state.getNumber(OFFSET.ICOUNT)} ${what} ${numbers.map((n) => n.toString(16)).join(' ')}`);
  }
  override fetch(linear: bigint): number {
    this.#note('fetch', linear);
    const at = super.fetch(linear);
    const page = linear & -4096n;
    const entry = this.state.get32(OFFSET.TLB) + (Number(page >> 12n) % TLB_ENTRY.COUNT) * TLB_ENTRY.BYTES;
    this.memory.view.setBigInt64(entry + TLB_ENTRY.EXEC, page, true);
    this.memory.view.setInt32(entry + TLB_ENTRY.ADDEND, this.memory.ramOffset, true);
    return at;
  }
  override translate(linear: bigint, bytes: number, access: number): number {
    this.#note('translate', linear, bytes, access);
    if (linear >= DEVICE && linear < DEVICE + 0x1000) return -1;
    return super.translate(linear, bytes, access);
  }
  override readSlow(linear: bigint, bytes: number, access: number): bigint {
    this.#note('read', linear, bytes);
    if (linear < DEVICE) return super.readSlow(linear, bytes, access);
    if ((linear & 0xfn) === 0n) this.state.set32(OFFSET.EVENTS, 1);
    return 0x1234_5678_9abc_def0n & ((1n << BigInt(8 * bytes)) - 1n);
  }
  override writeSlow(linear: bigint, bytes: number, value: bigint): void {
    this.#note('write', linear, bytes, value);
    if (linear < DEVICE) super.writeSlow(linear, bytes, value);
  }
}

// ## Invented programs

const dword = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff, (n >> 16) & 0xff, (n >> 24) & 0xff];
const REGISTERS = [0, 1, 2, 3, 5];

interface Program {
  readonly code: number[];
}
/** Blocks of ordinary instructions with jumps between them. */
function invent(bits: 32 | 64, pick: Pick): Program {
  const code: number[] = [];
  const labels: number[] = [];
  const jumps: { at: number; bytes: 1 | 4 }[] = [];
  const immediates: number[] = [];
  const reg = (): number => REGISTERS[pick(REGISTERS.length)] as number;
  const direct = (r: number): number[] => [0xc0 | (r << 3) | reg()];
  const address = (): number => {
    const kind = pick(24);
    if (kind === 0) return DEVICE + 4 * pick(16);
    if (kind === 1) return 0x8ffd + pick(3); // across a page
    if (kind === 2) return 0x9f000000; // nowhere
    return DATA + pick(0x2000);
  };
  const memory = (r: number): number[] => {
    if (pick(3) === 0) return [0x40 | (r << 3) | (6 + pick(2)), pick(256)]; // [esi/edi + disp8]
    if (pick(4) === 0) return [0x04 | (r << 3), 0x80 | (1 << 3) | 6]; // [esi + ecx*4]: may be anywhere
    return bits === 64 ? [0x04 | (r << 3), 0x25, ...dword(address())] : [0x05 | (r << 3), ...dword(address())];
  };
  const rm = (r: number): number[] => (pick(3) === 0 ? memory(r) : direct(r));
  const wide = (): number[] => (bits === 64 && pick(3) === 0 ? [0x48] : pick(8) === 0 ? [0x66] : []);
  const instruction = (): number[] => {
    const r = reg();
    switch (pick(26)) {
      case 0:
      case 1:
      case 2:
        return [...wide(), 8 * pick(8) + [1, 3][pick(2)]!, ...rm(r)];
      case 3:
        return [8 * pick(8) + [0, 2][pick(2)]!, ...rm(pick(8))];
      case 4: {
        const start = [...wide(), 0x83, 0xc0 | (pick(8) << 3) | r];
        immediates.push(code.length + start.length);
        return [...start, pick(256)];
      }
      case 5:
        return [...wide(), 0xff, ...(pick(3) === 0 ? memory(pick(2)) : [0xc0 | (pick(2) << 3) | r])];
      case 6:
        return [
          ...wide(),
          0xc1,
          ...(pick(4) === 0 ? memory([0, 1, 4, 5, 7][pick(5)]!) : [0xc0 | ([0, 1, 2, 3, 4, 5, 7][pick(7)]! << 3) | r]),
          pick(40),
        ];
      case 7:
        return [...wide(), 0xd3, 0xc0 | ([0, 1, 2, 3, 4, 5, 7][pick(7)]! << 3) | r];
      case 8:
        return [...wide(), 0x8b, ...memory(r)];
      case 9:
        return [...wide(), 0x89, ...memory(r)];
      case 10:
        return [0x0f, 0x90 + pick(16), ...rm(0)];
      case 11:
        return [...wide(), 0x0f, 0x40 + pick(16), ...rm(r)];
      case 12:
        return [...wide(), 0x0f, [0xb6, 0xb7, 0xbe, 0xbf][pick(4)]!, ...rm(r)];
      case 13:
        return [...wide(), 0x8d, ...memory(r)];
      case 14:
        return [0xf7, 0xc0 | ([2, 3, 4, 5][pick(4)]! << 3) | r];
      case 15:
        return [...wide(), 0x0f, 0xaf, ...rm(r)];
      case 16:
        return [0xf7, 0xc0 | ((6 + pick(2)) << 3) | r]; // may divide by zero
      case 17:
        return [0x50 + r];
      case 18:
        return [0x58 + r];
      case 19:
        return [[0xf8, 0xf9, 0xf5, 0x98, 0x99, 0x9e, 0x9f][pick(7)]!];
      case 20:
        return [...wide(), 0x0f, [0xa3, 0xab, 0xb3, 0xbb, 0xa4, 0xac, 0xbc, 0xbd][pick(8)]!, ...direct(r)].concat([]);
      case 21:
        return [0x0f, [0xb1, 0xc1][pick(2)]!, ...rm(r)];
      case 22:
        return [...(pick(2) ? [0xf3] : []), [0xa4, 0xa5, 0xaa, 0xab, 0xa6, 0xae][pick(6)]!];
      case 23:
        return [0xb8 + r, ...dword(pick(2 ** 32))];
      case 24:
        if (immediates.length === 0) return [0x90];
        // Code that changes code.
        return [0xc6, ...(bits === 64 ? [0x04, 0x25] : [0x05]), ...dword(CODE + immediates[pick(immediates.length)]!), pick(256)];
      default:
        return [0x87, ...direct(r)];
    }
  };
  const blocks = 3 + pick(8);
  for (let n = 0; n < blocks; n++) {
    labels.push(code.length);
    for (let k = 1 + pick(7); k > 0; k--) {
      const bytes = instruction();
      // Double shifts by an immediate need one more byte.
      if (bytes.includes(0x0f) && (bytes.at(-2) === 0xa4 || bytes.at(-2) === 0xac) && bytes.at(-3) === 0x0f) bytes.push(pick(40));
      code.push(...bytes);
    }
    switch (pick(8)) {
      case 0:
        code.push(0xe8);
        jumps.push({ at: code.length, bytes: 4 });
        code.push(0, 0, 0, 0);
        break;
      case 1:
        if (pick(2)) code.push(0xc3);
        break;
      case 2:
        code.push(0xe2); // loop
        jumps.push({ at: code.length, bytes: 1 });
        code.push(0);
        break;
      case 3:
        code.push(0xe9);
        jumps.push({ at: code.length, bytes: 4 });
        code.push(0, 0, 0, 0);
        break;
      case 4: {
        // An indirect jump to the beginning of a block.
        code.push(0xb8);
        jumps.push({ at: -code.length, bytes: 4 });
        code.push(0, 0, 0, 0, 0xff, pick(2) ? 0xe0 : 0xd0);
        break;
      }
      default:
        code.push(0x0f, 0x80 + pick(16));
        jumps.push({ at: code.length, bytes: 4 });
        code.push(0, 0, 0, 0);
    }
  }
  code.push(0xe9);
  jumps.push({ at: code.length, bytes: 4 });
  code.push(0, 0, 0, 0);
  for (const { at, bytes } of jumps) {
    const near = labels.filter((label) => bytes === 4 || Math.abs(label - at) < 120);
    const target = near[pick(near.length)] ?? labels[0]!;
    const value = at < 0 ? CODE + target : target - (at + bytes);
    (bytes === 4 ? dword(value) : [value & 0xff]).forEach((byte, n) => {
      code[Math.abs(at) + n] = byte;
    });
  }
  return { code };
}

/** Fills an order at the end of so many calls of `deliver`, or takes none now and then. */
class LateWorkshop implements Workshop {
  readonly orders: { order: Order; done: (made: Made | null) => void; calls: number }[] = [];
  readonly #lateness: () => number;
  made = 0;
  constructor(lateness: () => number) {
    this.#lateness = lateness;
  }
  order(order: Order, done: (made: Made | null) => void): boolean {
    this.orders.push({ order, done, calls: this.#lateness() });
    return true;
  }
  deliver(): void {
    for (const { order, done } of this.orders.filter((one) => one.calls-- <= 0)) {
      const made = fillOrder(order, new Set());
      if (made) this.made++;
      done(made);
    }
    this.orders.splice(0, this.orders.length, ...this.orders.filter(({ calls }) => calls >= 0));
  }
}

/** Runs a program in slices; returns everything that can be seen of it. */
function witness(bits: 32 | 64, { code }: Program, slices: readonly number[], how: TranslationOptions): { seen: unknown[]; regions: number } {
  const m = new Witness(bits, 1 << 20, { heat: 1, ...how });
  const { state } = m;
  const pick = random(77);
  for (let n = 0; n < 8; n++) state.setSlotNumber(n, pick(2 ** 32));
  state.setSlotNumber(SLOT.RSP, 0xc000);
  state.setSlotNumber(SLOT.RSI, DATA + 0x100);
  state.setSlotNumber(SLOT.RDI, DATA + 0x1000);
  for (let n = 0; n < 0x4000; n++) m.memory.u8[m.memory.ramOffset + DATA + n] = pick(256);
  writeFlags(state, 2);
  m.memory.slice(CODE, code.length).set(code);
  state.setSlotNumber(SLOT.RIP, CODE);
  const seen: unknown[] = [];
  for (const slice of slices) {
    state.set32(OFFSET.EVENTS, 0);
    const stop = m.resume(slice);
    const registers = Array.from({ length: 17 }, (_, n) => state.slot(n).toString(16));
    seen.push([stop.kind, stop.kind === 'fault' ? stop.fault.vector : 0, state.getNumber(OFFSET.ICOUNT), readFlags(state), ...registers]);
    if (stop.kind === 'fault') {
      // As a handler would: go on behind it, with pointers that are good again.
      state.setSlotNumber(SLOT.RIP, CODE);
      state.setSlotNumber(SLOT.RSP, 0xc000);
      state.setSlotNumber(SLOT.RCX, 40);
      state.setSlotNumber(SLOT.RSI, DATA + 0x100);
      state.setSlotNumber(SLOT.RDI, DATA + 0x1000);
    }
  }
  seen.push(...m.log);
  let hash = 0;
  for (const byte of m.memory.slice(0, 0x10000)) hash = (Math.imul(hash, 31) + byte) | 0;
  seen.push(hash);
  return { seen, regions: m.engine.translator?.compiled ?? 0 };
}

describe('interpreted and translated', () => {
  for (const bits of [32, 64] as const) {
    it(`invented ${bits}-bit programs do the same, and ask the same of their host at the same time`, () => {
      let [regions, late] = [0, 0];
      for (let seed = 1; seed <= 24; seed++) {
        const pick = random(seed * 7919 + bits);
        const program = invent(bits, pick);
        const slices = Array.from({ length: 6 }, () => 1 + pick(pick(3) === 0 ? 40 : 3000));
        const plain = witness(bits, program, slices, { translate: false });
        const translated = witness(bits, program, slices, {});
        const workshop = new LateWorkshop(() => pick(3));
        const ordered = witness(bits, program, slices, { workshop });
        const listing = `seed ${seed}: ${program.code.map((byte) => byte.toString(16).padStart(2, '0')).join(' ')}`;
        expect(translated.seen, listing).toEqual(plain.seen);
        expect(ordered.seen, `by order, ${listing}`).toEqual(plain.seen);
        regions += translated.regions;
        late += workshop.made;
      }
      expect(regions).toBeGreaterThan(24);
      expect(late).toBeGreaterThan(12);
    }, 120_000);
  }
});

describe('what is kept', () => {
  const hex = (text: string): number[] => text.split(' ').map((byte) => Number.parseInt(byte, 16));

  it('is bounded while code changes all the time; a page that does not come to rest is left to the interpreter', () => {
    const m = new FlatMachine(32, 1 << 20, { heat: 2 });
    const translator = m.engine.translator!;
    // start: mov ecx, 200; again: add eax, 1; dec ecx; jnz again; inc byte [the immediate]; jmp start
    const code = hex('b9 c8 00 00 00 83 c0 01 49 75 fa fe 05 07 10 00 00 eb ed');
    m.run(code, { instructions: 20_000 });
    const compiled = translator.compiled;
    expect(compiled).toBeGreaterThan(0);
    expect(compiled).toBeLessThan(60);
    m.resume(20_000);
    expect(translator.compiled).toBe(compiled);
    expect(translator.regions).toBeLessThanOrEqual(compiled);
    const plain = new FlatMachine(32, 1 << 20, { translate: false });
    plain.run(code, { instructions: 20_000 });
    plain.resume(20_000);
    expect(m.state.slot(0)).toBe(plain.state.slot(0));
    expect(m.state.getNumber(OFFSET.ICOUNT)).toBe(plain.state.getNumber(OFFSET.ICOUNT));
  });

  it('gives slots back: rewritten code is translated anew in the place of the old', () => {
    const m = new FlatMachine(64, 1 << 20, { heat: 2 });
    const translator = m.engine.translator!;
    for (let round = 1; round <= 5; round++) {
      m.memory.slice(0x3000, 5).set(hex(`83 c0 0${round} eb fb`)); // add eax, round; jmp
      m.engine.codeWritten(0x3000, 5);
      expect(translator.regions).toBe(0);
      m.state.setSlotNumber(SLOT.RIP, 0x3000);
      m.state.setSlotNumber(SLOT.RAX, 0);
      m.resume(4000);
      expect(m.state.slot(SLOT.RAX)).toBe(BigInt(2000 * round));
      expect(translator.regions).toBe(1);
    }
    expect(translator.compiled).toBe(5);
  });

  it('no clocks: a translated loop stops at the same instruction as an interpreted one', () => {
    const code = hex('ff c0 ff c3 ff c1 eb f8'); // inc eax; inc ebx; inc ecx; jmp
    for (const instructions of [5000, 5001, 5002, 5003]) {
      const m = new FlatMachine(64, 1 << 20, { heat: 2 });
      expect(m.run(code, { instructions })).toEqual({ kind: 'deadline' });
      expect(m.engine.translator!.compiled).toBe(1);
      expect(m.state.getNumber(OFFSET.ICOUNT)).toBe(instructions);
      expect(m.state.slot(SLOT.RIP)).toBe(0x1000n + [0n, 2n, 4n, 6n][instructions % 4]!);
    }
  });
});

describe('by order', () => {
  const LOOP = (add: number): number[] => [0x83, 0xc0, add, 0xeb, 0xfb]; // add eax, n; jmp
  const at = 0x3000;
  /** A machine that has gone round a loop until its translation is on order, and delivers it when told. */
  function ordering(): { m: FlatMachine; workshop: LateWorkshop; go: (instructions: number) => void } {
    const workshop = new LateWorkshop(() => Number.POSITIVE_INFINITY);
    const m = new FlatMachine(64, 1 << 20, { heat: 2, workshop });
    const go = (instructions: number): void => {
      expect(m.resume(instructions)).toEqual({ kind: 'deadline' });
    };
    m.run(LOOP(1), { at, instructions: 4000 });
    expect(m.engine.translator!.regions).toBe(0);
    expect(workshop.orders).toHaveLength(1);
    return { m, workshop, go };
  }
  const finish = (workshop: LateWorkshop): void => {
    for (const order of workshop.orders) order.calls = 0;
  };

  it('the guest goes on interpreted, orders once, and is translated when the module is there', () => {
    const { m, workshop, go } = ordering();
    go(4000);
    expect(workshop.orders).toHaveLength(1);
    finish(workshop);
    go(4000);
    expect(m.engine.translator!.regions).toBe(1);
    expect(m.state.slot(SLOT.RAX)).toBe(6000n);
    // A second machine, whose module is of another loop than what has been decoded, shows that it is the module that runs.
    const other = ordering();
    for (const one of other.workshop.orders) one.order.code.set(LOOP(3), at % 4096);
    other.m.memory.slice(at, 5).set(LOOP(3));
    finish(other.workshop);
    other.go(4000);
    expect(other.m.state.slot(SLOT.RAX)).toBeGreaterThan(2000n + 4000n);
  });

  it('does not use what was made of code that has changed, and orders anew', () => {
    const { m, workshop, go } = ordering();
    m.engine.codeWritten(at, 5);
    m.memory.slice(at, 5).set(LOOP(2));
    finish(workshop);
    go(4000);
    expect(m.engine.translator!.regions).toBe(0);
    expect(m.state.slot(SLOT.RAX)).toBe(2000n + 4000n);
    expect(workshop.orders).toHaveLength(1);
    finish(workshop);
    go(4000);
    expect(m.engine.translator!.regions).toBe(1);
    expect(m.state.slot(SLOT.RAX)).toBe(2000n + 8000n);
  });

  it('orders anew, too, when the change was behind the block that had become hot', () => {
    const workshop = new LateWorkshop(() => Number.POSITIVE_INFINITY);
    const m = new FlatMachine(64, 1 << 20, { heat: 2, workshop });
    m.run([0x83, 0xc0, 0x01, 0xeb, 0x00, 0x83, 0xc1, 0x01, 0xeb, 0xf6], { at, instructions: 4000 }); // add eax, 1; jmp on; add ecx, 1; jmp back
    expect(workshop.orders).toHaveLength(1);
    m.engine.codeWritten(at + 7, 1);
    m.memory.slice(at + 7, 1)[0] = 2;
    finish(workshop);
    m.resume(4000);
    expect(workshop.orders.map(({ order }) => order.place)).toEqual([m.memory.ramOffset + at]);
    finish(workshop);
    m.resume(4000);
    expect(m.engine.translator!.regions).toBe(1);
    expect([m.state.slot(SLOT.RAX), m.state.slot(SLOT.RCX)]).toEqual([3000n, 1000n + 4000n]);
  });

  it('is found by who comes by another way', () => {
    const workshop = new LateWorkshop(() => Number.POSITIVE_INFINITY);
    const m = new Witness(64, 1 << 20, { heat: 2, workshop });
    const elsewhere = at + 0x1000;
    m.memory.slice(elsewhere, 5).set([0xe9, 0xfb, 0xef, 0xff, 0xff]); // jmp to the loop
    m.run([0x83, 0xc0, 0x01, 0xe9, 0xf8, 0x0f, 0x00, 0x00], { at, instructions: 4000 }); // add eax, 1; jmp elsewhere
    expect(workshop.orders).toHaveLength(2);
    const [here] = workshop.orders.filter(({ order }) => order.place % 0x10000 === (m.memory.ramOffset % 0x10000) + at);
    here!.order.code[(at + 2) % 4096] = 3; // to be told from what is decoded
    m.memory.slice(at + 2, 1)[0] = 3;
    finish(workshop);
    m.state.setSlotNumber(SLOT.RIP, elsewhere);
    m.resume(6000);
    expect(m.state.slot(SLOT.RAX)).toBeGreaterThan(1333n + 4000n);
  });

  it('orders one piece of a page after the other', () => {
    const { m, workshop, go } = ordering();
    m.memory.slice(at + 0x100, 5).set(LOOP(1));
    m.state.setSlotNumber(SLOT.RIP, at + 0x100);
    go(4000);
    expect(workshop.orders).toHaveLength(1);
    finish(workshop);
    go(4000);
    expect(workshop.orders).toHaveLength(1);
    finish(workshop);
    go(4000);
    expect(m.engine.translator!.regions).toBe(2);
  });

  it('notices stores into what has just arrived', () => {
    const { m, workshop, go } = ordering();
    finish(workshop);
    go(1);
    expect(m.engine.translator!.regions).toBe(1);
    m.engine.codeWritten(at + 2, 1);
    m.memory.slice(at, 5).set(LOOP(4));
    expect(m.engine.translator!.regions).toBe(0);
    const before = m.state.slot(SLOT.RAX);
    go(4000);
    expect(m.state.slot(SLOT.RAX) - before).toBeGreaterThanOrEqual(7996n);
  });

  it('what was written behind the back of all is noticed, too', () => {
    const { m, workshop, go } = ordering();
    finish(workshop);
    m.engine.translator!.deliver();
    expect(m.engine.translator!.regions).toBe(1);
    m.memory.slice(at, 5).set(LOOP(5));
    m.engine.memoryChanged();
    go(4000);
    expect(m.state.slot(SLOT.RAX)).toBe(2000n + 10_000n);
  });

  it('does itself what nobody takes', () => {
    const m = new FlatMachine(64, 1 << 20, { heat: 2, workshop: { order: () => false, deliver: () => {} } });
    m.run(LOOP(1), { at, instructions: 4000 });
    expect(m.engine.translator!.regions).toBe(1);
  });
});

import { describe, expect, it } from 'vitest';
import { readFlags, writeFlags } from '../engine/flags.ts';
import { PRIVILEGE } from '../mmu/mmu.ts';
import { AR, CR4, EFER, FLAG, MODE, OFFSET, SEG, SLOT, WATCH } from '../state.ts';
import { descriptor, Lab, type LabMode, PLACE, SELECTOR } from './laboratory.ts';

// The ordinary cases of system instructions are written twice: in TypeScript, and as micro-operations that decline what is not ordinary. A trace makes them
// decline everything. So each case here is run with a trace and without, from the same state, and must end the same.

/** What a case may change in memory: tables and stacks, and the page of its data. */
const AREAS = [
  [PLACE.GDT, 0xc000],
  [PLACE.DATA, 0x1000],
] as const;
const SEEDS = 100;

/** Numbers that look random, and are the same every time. */
class Dice {
  #x: number;
  constructor(seed: number) {
    this.#x = seed >>> 0 || 1;
  }
  below(n: number): number {
    this.#x = (Math.imul(this.#x, 1664525) + 1013904223) >>> 0;
    return (this.#x >>> 8) % n;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }
}

const FLAGS = [FLAG.CF, FLAG.PF, FLAG.AF, FLAG.ZF, FLAG.SF, FLAG.DF, FLAG.OF, FLAG.IF, FLAG.NT, FLAG.AC, FLAG.ID];
function someFlags(dice: Dice): number {
  let flags = FLAG.FIXED | (dice.chance(40) ? dice.below(4) << FLAG.IOPL_SHIFT : 0);
  for (const flag of FLAGS) if (dice.chance(flag === FLAG.NT || flag === FLAG.AC ? 8 : 50)) flags |= flag;
  return dice.chance(3) ? flags | FLAG.TF : flags;
}

const selectors = (long: boolean): readonly number[] => [
  ...(long ? [SELECTOR.CODE64, SELECTOR.USER_CODE64, SELECTOR.CODE64, SELECTOR.USER_CODE64] : []),
  SELECTOR.CODE,
  SELECTOR.USER_CODE,
  SELECTOR.DATA,
  SELECTOR.USER_DATA,
  SELECTOR.CODE,
  SELECTOR.USER_CODE,
  SELECTOR.NULL,
  SELECTOR.CONFORMING,
  SELECTOR.CODE16,
  SELECTOR.ABSENT_CODE,
  SELECTOR.DOWN,
  SELECTOR.LDT,
  SELECTOR.BEYOND,
];
const STACKS = [SELECTOR.DATA, SELECTOR.DATA, SELECTOR.USER_DATA, SELECTOR.USER_DATA, SELECTOR.NULL, SELECTOR.DOWN, SELECTOR.CODE, 3];

// biome-ignore format: table
const INSTRUCTIONS: Readonly<Record<string, readonly number[]>> = {
  INT: [0xcd, 0x80], IRET: [0xcf], UD2: [0x0f, 0x0b], CLI: [0xfa], STI: [0xfb], PUSHF: [0x9c], POPF: [0x9d], SYSCALL: [0x0f, 0x05], SYSENTER: [0x0f, 0x34],
  SYSEXIT: [0x0f, 0x35], SWAPGS: [0x0f, 0x01, 0xf8], RDTSC: [0x0f, 0x31], RDTSCP: [0x0f, 0x01, 0xf9], PAUSE: [0xf3, 0x90],
  'OUT imm': [0xe6, 0x80], 'OUT DX': [0xef], 'IN imm': [0xe5, 0x80], 'IN DX': [0xec],
  IRETQ: [0x48, 0xcf], SYSRETQ: [0x48, 0x0f, 0x07], SYSRET: [0x0f, 0x07], SYSEXITQ: [0x48, 0x0f, 0x35], POPFW: [0x66, 0x9d], PUSHFW: [0x66, 0x9c],
};

class Bench {
  readonly lab: Lab;
  readonly long: boolean;

  constructor(mode: LabMode) {
    this.lab = new Lab(mode, 0);
    this.long = mode === 'long';
    this.lab.describe(0x20 - 8, descriptor(0, 0xfffff, 0xfb, 0xc)); // user code two places after ring 0's, as SYSEXIT wants it
    for (const data of [0, 1, 2]) this.lab.machine.devices.set(0x80 + data, { read: () => 0x5a });
  }

  /** Makes a case: code, tables, registers. */
  set(dice: Dice, code: readonly number[]): void {
    const { lab, long } = this;
    const { state, cpu } = lab;
    const { view } = lab.machine.memory;
    const place = (address: number): number => lab.machine.memory.offset(address, 16);
    const cpl = dice.pick([0, 3, 3]);
    lab.fill(SEG.CS, cpl === 0 ? (long ? SELECTOR.CODE64 : SELECTOR.CODE) : long ? SELECTOR.USER_CODE64 : SELECTOR.USER_CODE);
    for (const seg of [SEG.SS, SEG.DS, SEG.ES, SEG.FS, SEG.GS]) lab.fill(seg, cpl === 0 ? SELECTOR.DATA : SELECTOR.USER_DATA);
    if (dice.chance(15)) state.setSegRights(SEG.FS, AR.P | AR.S | AR.WRITABLE); // ring 0's
    lab.fill(SEG.TR, SELECTOR.TSS);
    if (dice.chance(5)) state.setSegLimit(SEG.TR, 8);
    state.set32(OFFSET.CPL, cpl);
    const gate = dice.pick(selectors(long));
    for (const vector of [0x80, 6, 13, 14]) {
      const usual = dice.chance(70);
      lab.setGate(vector, {
        selector: usual ? (long ? SELECTOR.CODE64 : SELECTOR.CODE) : gate,
        type: dice.pick([0x8e, 0x8e, 0xee, 0xee, 0xef, 0x8f, 0xee, 0xe6, 0x0e]),
        ist: long && dice.chance(8) ? 1 : 0,
      });
    }
    for (let slot = 0; slot < 16; slot++) state.setSlotNumber(slot, dice.below(1 << 24));
    state.setSlotNumber(SLOT.RSP, PLACE.DATA + 0x800 + (dice.chance(20) ? dice.below(8) : 0) - (dice.chance(4) ? 0x7f8 : 0));
    state.setSlotNumber(SLOT.RCX, PLACE.CODE + 0x40);
    state.setSlotNumber(SLOT.RDX, dice.chance(50) ? 0x81 : PLACE.CODE + 0x20);
    if (long && dice.chance(10)) state.setSlot(SLOT.RCX, 0x8000_0000_0000n);
    state.setSlotNumber(SLOT.R11, someFlags(dice));
    // A frame to return with.
    const word = code[0] === 0x48 || code[0] === 0x9d ? 8 : 4;
    const frame = [PLACE.CODE + 0x80, dice.pick(selectors(long)), someFlags(dice), PLACE.DATA + 0x400, dice.pick(STACKS)];
    if (code.at(-1) === 0x9d) frame[0] = someFlags(dice);
    if (dice.chance(60)) {
      const outer = cpl === 3 || dice.chance(50);
      frame[1] = long ? (outer ? SELECTOR.USER_CODE64 : SELECTOR.CODE64) : outer ? SELECTOR.USER_CODE : SELECTOR.CODE;
      frame[4] = outer ? SELECTOR.USER_DATA : SELECTOR.DATA;
    }
    if (dice.chance(20)) frame[2] = (frame[2] as number) | FLAG.RF;
    const sp = state.slot32(SLOT.RSP);
    frame.forEach((value, n) => {
      view.setUint32(place(sp + n * word), value, true);
      if (word === 8) view.setUint32(place(sp + n * word + 4), 0, true);
    });
    state.set64(OFFSET.SYSENTER_CS, BigInt(dice.pick([8, 8, 0])));
    state.set64(OFFSET.SYSENTER_ESP, BigInt(PLACE.STACK));
    state.set64(OFFSET.SYSENTER_EIP, BigInt(PLACE.CODE + 0x100));
    state.set64(OFFSET.STAR, (BigInt(SELECTOR.CODE64) << 32n) | (0x20n << 48n));
    state.set64(OFFSET.LSTAR, BigInt(PLACE.CODE + 0x200));
    state.set64(OFFSET.SFMASK, BigInt(dice.pick([0, FLAG.IF, 0x47700])));
    state.set64(OFFSET.KERNEL_GS_BASE, 0x1234n);
    if (long) state.set64(OFFSET.EFER, BigInt(EFER.LME | EFER.LMA | (dice.chance(80) ? EFER.SCE : 0)));
    state.set64(OFFSET.CR4, BigInt((long ? CR4.PAE : 0) | (dice.chance(20) ? CR4.TSD : 0)));
    for (const slot of [SLOT.RIP, SLOT.NEXT_RIP]) state.setSlotNumber(slot, PLACE.CODE);
    state.set32(OFFSET.SHADOW, 0);
    writeFlags(state, someFlags(dice));
    lab.machine.load(PLACE.CODE, [...code, 0x90, 0x90]);
    cpu.modeChanged();
  }

  /** Runs one instruction and says how things are then. `traced`: TypeScript does it all. */
  outcome(traced: boolean): unknown {
    const { cpu, state } = this.lab;
    Object.assign(cpu, { trace: traced ? this.lab.trace : null });
    cpu.mmu.flush('test');
    cpu.modeChanged();
    // The TLB knows the tables, and the stacks can be written: else nothing would be ordinary.
    for (const page of [PLACE.GDT, PLACE.IDT, PLACE.IDT + 0x800, PLACE.TSS]) cpu.mmu.read(BigInt(page), 4, PRIVILEGE.SYSTEM);
    for (const stack of [PLACE.STACK_RING0 - 8, PLACE.DATA, PLACE.DATA + 0x800]) {
      for (const who of [PRIVILEGE.SUPERVISOR, PRIVILEGE.USER]) cpu.mmu.write(BigInt(stack), 4, cpu.mmu.read(BigInt(stack), 4, who), who);
    }
    const stop = this.lab.machine.run(1);
    const segments = [0, 1, 2, 3, 4, 5, 6, 7].map((seg) => [state.segSelector(seg), state.segBase(seg), state.segLimit(seg), state.segRights(seg)]);
    const words = [OFFSET.CPL, OFFSET.MODE, OFFSET.TLB, OFFSET.SHADOW, OFFSET.ACTIVITY].map((at) => state.get32(at));
    const fields = [OFFSET.CR0, OFFSET.CR2, OFFSET.ICOUNT, OFFSET.KERNEL_GS_BASE].map((at) => state.get64(at));
    return { stop: stop.kind, slots: Array.from({ length: 18 }, (_, n) => state.slot(n)), segments, words, fields, flags: readFlags(state) };
  }
}

describe.each(['protected', 'long'] as const)('ordinary cases as micro-operations, %s', (mode) => {
  const bench = new Bench(mode);
  const { memory } = bench.lab.machine;
  const save = (): Uint8Array[] => AREAS.map(([start, bytes]) => Uint8Array.from(memory.slice(start, bytes)));
  const restore = (saved: readonly Uint8Array[]): void =>
    AREAS.forEach(([start, bytes], n) => void memory.slice(start, bytes).set(saved[n] as Uint8Array));
  const { state } = bench.lab;
  const registers = Uint8Array.from(state.u8);
  const ram = save();

  it.each(Object.entries(INSTRUCTIONS))('%s ends as in TypeScript', (name, code) => {
    if (mode === 'protected' && code[0] === 0x48) return; // that is DEC EAX
    let ordinary = 0;
    for (let seed = 1; seed <= SEEDS; seed++) {
      state.u8.set(registers);
      restore(ram);
      bench.set(new Dice(seed * 7919), code);
      const before = { registers: Uint8Array.from(state.u8), ram: save() };
      const expected = bench.outcome(true);
      const ramThen = save();
      state.u8.set(before.registers);
      restore(before.ram);
      bench.lab.cpu.engine.memoryChanged();
      const found = bench.outcome(false);
      expect(state.get32(OFFSET.WATCH) & WATCH.TRACE).toBe(0);
      expect([name, seed, found]).toEqual([name, seed, expected]);
      const same = save().every((bytes, n) => Buffer.compare(bytes, ramThen[n] as Uint8Array) === 0);
      expect([name, seed, same]).toEqual([name, seed, true]);
      if (state.slot(SLOT.RIP) !== BigInt(PLACE.CODE) || (state.get32(OFFSET.MODE) & MODE.V86) !== 0) ordinary++;
    }
    expect(ordinary).toBeGreaterThan(0);
  });
});

// # A world made at random
//
// Page tables, the pages that a program will touch, the control registers that it runs under; and one access of that program, as code that the guest
// executes. What is done with them, and what is right, is not decided here.

import { CR0, CR4 } from '../../01-hardware-background/state.ts';
import type { Random } from '../random.ts';
import { ARENA, buildArena, entryBytes, indexAt, LEVELS, type PagingMode, routineAt, SELECTOR } from './arena.ts';
import type { OracleAccess, OracleMode } from './oracle.ts';
import { type Control, control, type Ended, type Program } from './subjects.ts';

const P = 1;
/** Top-level entries that the fuzzer leaves alone: three of 4 MiB, or one. */
const HONEST_ENTRIES = [0, 1, 2];
export const AD_MASK = ~0x60;
const AC = 1 << 18;
const FLAGS = 2 | (3 << 12); // I/O privilege 3: user mode may tell
export const EPISODE = 200;
export const TABLES_END = ARENA.TABLES + ARENA.TABLE_FRAMES * 4096;

/** Shapes of an access by the program. */
export interface Access {
  readonly routine: 'read' | 'write' | 'add' | 'xchg' | 'movs' | 'push' | 'fxsave' | 'exec';
  readonly linear: bigint;
  readonly second: bigint;
  readonly user: boolean;
  readonly ac: boolean;
  readonly value: bigint;
}

// ## Tables at random

export class World {
  readonly random: Random;
  readonly paging: PagingMode;
  readonly flushing: boolean;
  /** No devices, read-only memory or holes: what a bare processor can have too. */
  readonly plain: boolean;
  readonly roots = [ARENA.TABLES, ARENA.TABLES + 0x1000] as const;
  readonly pages: bigint[] = [];
  readonly ram: Uint8Array;
  readonly view: DataView;
  control: Control;
  cr0: number;
  cr4: number;
  cr3: number;
  readonly #honest: readonly number[];
  /** PAE's four registers. */
  pdptes: readonly (readonly [number, number])[] = [];

  constructor(random: Random, ram: Uint8Array, modes: readonly PagingMode[], flushing: boolean) {
    this.random = random;
    this.ram = ram;
    this.view = new DataView(ram.buffer, ram.byteOffset, ram.length);
    this.paging = random.pick(modes);
    this.flushing = flushing;
    this.plain = random.chance(0.6);
    this.cr3 = this.roots[0];
    const wide = entryBytes(this.paging) === 8;
    this.control = control(this.paging, this.cr3, {
      wp: random.chance(0.6),
      nx: wide && random.chance(0.7),
      smep: random.chance(0.25),
      smap: random.chance(0.25),
      pge: flushing && random.chance(0.5),
    });
    this.cr0 = this.control.cr0;
    this.cr4 = this.control.cr4;
    buildArena(ram, this.paging, this.roots);
    this.#honest = HONEST_ENTRIES.map((n) => this.view.getUint32(this.roots[0] + n * entryBytes(this.paging), true) & AD_MASK);
    for (let n = 0; n < 14; n++) this.pages.push(this.#linear());
    for (let n = 0; n < ARENA.DATA_FRAMES; n++) this.#data(ARENA.DATA + n * 4096, n);
    for (let at = ARENA.LARGE; at < ARENA.LARGE_END; at += 4096) this.#data(at, at >> 12);
    for (const root of this.roots) for (const page of this.pages) this.#build(root, page);
    // A malformed directory pointer would be refused when the registers are set, before the first step.
    if (this.paging === 'pae')
      for (const root of this.roots)
        for (const n of [1, 2, 3]) {
          this.view.setUint32(root + 8 * n, this.view.getUint32(root + 8 * n, true) & ~0x1e6, true);
          this.view.setUint32(root + 8 * n + 4, 0, true);
        }
  }

  #data(at: number, tag: number): void {
    this.view.setUint32(at, 0x80cd00b0 | ((tag & 0xff) << 8), true); // mov al, tag; int 0x80
    this.view.setUint32(at + 0x800, 0xda7a0000 + tag, true);
  }

  /** A page outside the honest part. Addresses are close to each other, so that they share tables. */
  #linear(): bigint {
    const { random } = this;
    const levels = LEVELS[this.paging];
    let linear = 0n;
    for (const { level, shift } of levels) {
      const top = level === levels[0]?.level;
      const choices = top
        ? this.paging === 'long'
          ? [1, 2, 255]
          : this.paging === 'pae'
            ? [1, 2, 3]
            : [16, 17, 700]
        : level === 2
          ? [1, 2, 3, 4] // of a 1 GiB page: the part with the arena
          : level === 3
            ? [0, 1]
            : [0, 1, 32, 33, 511];
      linear |= BigInt(random.pick(choices)) << BigInt(shift);
    }
    return linear;
  }

  #frame(table: boolean): number {
    const { random } = this;
    if (random.chance(table ? 0.93 : 0.15)) return ARENA.TABLES + (2 + random.below(ARENA.TABLE_FRAMES - 2)) * 4096;
    if (random.chance(0.04)) return random.pick(this.roots);
    if (!this.plain && random.chance(0.2)) {
      const kind = random.below(table ? 2 : 3);
      return kind === 0 ? ARENA.READ_ONLY + random.below(ARENA.READ_ONLY_FRAMES) * 4096 : kind === 1 ? ARENA.DEVICE : ARENA.HOLE;
    }
    return ARENA.DATA + random.below(ARENA.DATA_FRAMES) * 4096;
  }

  /** An entry for a level. Mostly sensible, so that walks get somewhere. */
  entry(level: number): [number, number] {
    const { random, paging } = this;
    if (random.chance(0.08)) return [random.chance(0.5) ? 0 : (random.next() & ~P) >>> 0, 0];
    const wide = entryBytes(paging) === 8;
    const pointer = paging === 'pae' && level === 3;
    const mayBeLarge = level === 2 ? paging !== 'bits32' : level === 3 && paging === 'long';
    const large = mayBeLarge && random.chance(level === 2 ? 0.3 : 0.1);
    let low = P;
    if (!pointer) {
      if (random.chance(0.75)) low |= 2;
      if (random.chance(0.7)) low |= 4;
      if (random.chance(0.5)) low |= 0x20;
      if (random.chance(0.5)) low |= 0x40;
      if (random.chance(0.1)) low |= 0x18;
      if (random.chance(0.2)) low |= 0x100;
      if (random.chance(0.2)) low |= random.below(8) << 9;
    }
    let address: number;
    if (large) {
      low |= 0x80;
      address = level === 3 ? 0 : wide ? random.pick([0x200000, 0x400000, 0x600000, 0x800000]) : random.pick([0, 0x400000]);
      if (random.chance(0.1)) low |= 0x1000; // PAT
    } else {
      address = this.#frame(level > 1);
      if (level === 1 && random.chance(0.05)) low |= 0x80; // PAT
    }
    let high = 0;
    if (wide && !pointer) {
      if (random.chance(0.12)) high |= 0x80000000;
      if (random.chance(0.03)) high |= 1 << (8 + random.below(20));
    }
    // Reserved; in a 4 MiB entry bits 13 and up are high address bits, and bit 21 is reserved.
    if (large && random.chance(0.03)) low |= wide ? 1 << (13 + random.below(4)) : this.plain ? 1 << 21 : 1 << (13 + random.below(9));
    if (pointer && random.chance(0.02)) low |= 2;
    return [(low | address) >>> 0, high >>> 0];
  }

  #build(root: number, linear: bigint): void {
    const size = entryBytes(this.paging);
    let table = root;
    for (const level of LEVELS[this.paging]) {
      if (table < ARENA.TABLES || table >= TABLES_END) return;
      const at = table + indexAt(linear, level) * size;
      const [lo, hi] = this.read(at);
      if (lo & P && this.random.chance(0.95)) {
        if (lo & 0x80 && level.level > 1) return;
        table = lo & ~0xfff;
        continue;
      }
      const [low, high] = this.entry(level.level);
      this.view.setUint32(at, low, true);
      if (size === 8) this.view.setUint32(at + 4, high & (this.control.nx ? -1 : 0x7fffffff), true);
      void hi;
      if (!(low & P) || (low & 0x80 && level.level > 1)) return;
      table = low & ~0xfff;
    }
  }

  read(gpa: number, view = this.view): [number, number] {
    return [view.getUint32(gpa, true), entryBytes(this.paging) === 8 ? view.getUint32(gpa + 4, true) : 0];
  }

  /** One of the entries that lead to the program itself. */
  isGround(gpa: number): boolean {
    return this.roots.some((root) => gpa >= root && gpa < root + (entryBytes(this.paging) === 8 ? 8 : 12));
  }
  /** Those entries are still there. */
  isHonest(ram: Uint8Array): boolean {
    const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
    const size = entryBytes(this.paging);
    return this.roots.every((root) =>
      HONEST_ENTRIES.every((n) => (size === 8 && n > 0) || (view.getUint32(root + n * size, true) & AD_MASK) === this.#honest[n]),
    );
  }

  get oracleMode(): OracleMode {
    const { cr0, cr4 } = this;
    return { paging: this.paging, wp: (cr0 & CR0.WP) !== 0, nx: this.control.nx, smep: (cr4 & CR4.SMEP) !== 0, smap: (cr4 & CR4.SMAP) !== 0 };
  }

  /** Where the entry of a level for an address is now, on the present path; null when the path does not get there. */
  entryAt(view: DataView, linear: bigint, depth: number): { gpa: number; level: number } | null {
    const size = entryBytes(this.paging);
    let table = this.cr3;
    for (let n = 0; ; n++) {
      const level = LEVELS[this.paging][n];
      if (!level || table < ARENA.TABLES || table >= TABLES_END) return null;
      const gpa = table + indexAt(linear, level) * size;
      if (n === depth) return { gpa, level: level.level };
      const low = view.getUint32(gpa, true);
      if (!(low & P) || (low & 0x80 && level.level > 1)) return null;
      table = (low & ~0xfff) >>> 0;
    }
  }

  randomAccess(): Access {
    const { random } = this;
    const page = random.pick(this.pages);
    const exec = random.chance(0.12);
    const routine = exec ? 'exec' : random.pick(['read', 'read', 'read', 'write', 'write', 'write', 'add', 'xchg', 'movs', 'push'] as const);
    const offset = exec ? 0 : random.chance(0.06) ? 0xffe : random.chance(0.5) ? 0x800 : random.below(1024) * 4;
    return {
      routine: !exec && this.flushing && this.plain && random.chance(0.01) ? 'fxsave' : routine,
      linear: page + BigInt(offset),
      second: random.pick(this.pages) + BigInt(random.below(1024) * 4),
      user: random.chance(0.4),
      ac: random.chance(0.3),
      value: BigInt(random.next()),
    };
  }
}

// ## One access as a program

export function programOf(world: World, access: Access, ram: Uint8Array): Program {
  const { routine, linear, second, user, ac, value } = access;
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  const target = routine === 'exec' ? linear : BigInt(routineAt(routine, user));
  const flags = FLAGS | (ac ? AC : 0);
  const registers = { rax: value, rbx: routine === 'fxsave' ? linear & ~0xfn : linear, rsi: linear, rdi: second };
  if (!user) return { ...registers, rip: target, rsp: ARENA.STACK, rflags: flags };
  const size = world.paging === 'long' ? 8 : 4;
  const rsp = ARENA.STACK - 5 * size;
  const frame = [target, BigInt(SELECTOR.USER_CODE), BigInt(flags), BigInt(ARENA.USER_STACK), BigInt(SELECTOR.USER_DATA)];
  frame.forEach((word, n) => {
    if (size === 8) view.setBigUint64(rsp + 8 * n, word, true);
    else view.setUint32(rsp + 4 * n, Number(word & 0xffffffffn), true);
  });
  return { ...registers, rip: routineAt('enterUser'), rsp, rflags: FLAGS };
}

export const describe = ({ end, rax, code, cr2, log }: Ended): string =>
  `${end} rax ${rax.toString(16)}${end === 'page-fault' ? ` code ${code} cr2 ${cr2.toString(16)}` : ''} ${log}`;
export const kindOf = (routine: Access['routine']): OracleAccess['kind'] =>
  routine === 'exec' ? 'exec' : routine === 'read' || routine === 'push' || routine === 'movs' ? 'read' : 'write';
/** True for an access that the oracle does not judge, because it lies on two pages. A push is as wide as the mode's stack. */
export const straddles = ({ routine, linear }: Access, { paging }: World): boolean =>
  routine !== 'exec' && Number(linear & 0xfffn) + (routine === 'push' && paging === 'long' ? 8 : 4) > 0x1000;
export const showAccess = ({ routine, linear, second, user, ac }: Access): string =>
  `${user ? 'user' : 'kernel'}${ac ? ' with AC' : ''} ${routine} 0x${linear.toString(16)}${routine === 'movs' ? ` to 0x${second.toString(16)}` : ''}`;

/** A store by the kernel through the window. Returns the program. */
export const storeProgram = (world: World, gpa: number, [low, high]: readonly [number, number]): Program => {
  const wide = entryBytes(world.paging) === 8;
  const rax = world.paging === 'long' ? (BigInt(high) << 32n) | BigInt(low) : BigInt(low);
  return { rip: wide ? routineAt('store') : routineAt('write'), rsp: ARENA.STACK, rax, rbx: BigInt(gpa), rdx: BigInt(high), rflags: FLAGS };
};
export const simple = (routine: 'invlpg' | 'setCr0' | 'setCr3' | 'setCr4', value: bigint): Program => ({
  rip: routineAt(routine),
  rsp: ARENA.STACK,
  rax: value,
  rbx: value,
  rflags: FLAGS,
});

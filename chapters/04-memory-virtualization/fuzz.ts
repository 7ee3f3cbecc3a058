// # Tables that nobody would write
//
// Payloads show that the methods agree on what an operating system does. A hostile guest does other things: tables that contain themselves, one
// frame as a directory here and a page there, large pages over the tables that map them, reserved bits, entries in read-only memory. The fuzzer
// makes such tables at random, in every paging mode, and changes them while a program uses them.
//
// It has two ways to know what is right. With **flushes** after every change the architecture leaves no choice: the two methods, a bare processor
// and the oracle must agree to the last bit, accessed and dirty bits in the tables included. **Without** them a processor may use what it remembers;
// then each machine runs by itself, and each answer must be one that the oracle can put together from what the entries have been since the last
// flush.
//
// Everything is a function of the seed. A failure names its seed and step.

import { CR0, CR4 } from '../01-hardware-background/state.ts';
import type { MemoryVirtualization } from '../02-kvm-objects/soft/second-stage.ts';
import type { SoftVm } from '../02-kvm-objects/soft/vm.ts';
import { ARENA, buildArena, entryBytes, indexAt, LEVELS, PAGING_MODES, type PagingMode, routineAt, SELECTOR } from './fuzz/arena.ts';
import { type Answer, answers, type EntryValues, type OracleAccess, type OracleMode } from './fuzz/oracle.ts';
import { Bare, type Control, control, type Ended, Guest, type Program, type Subject } from './fuzz/subjects.ts';
import { TwoDimensional } from './kernel/two-dimensional.ts';
import { makeShadowMemory } from './shadow/index.ts';

/** A small generator of good numbers: xorshift32. */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) | 1;
    for (let n = 0; n < 8; n++) this.next();
  }
  /** 0 to 2^32 - 1. */
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }
  below(n: number): number {
    return Math.floor((this.next() / 2 ** 32) * n);
  }
  chance(p: number): boolean {
    return this.next() / 2 ** 32 < p;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
}

export interface FuzzOptions {
  readonly seed: number;
  readonly steps: number;
  /** Steps of one episode: then new tables, and a new mode. */
  readonly episode?: number;
  /** Replaces the method under test: to prove that the fuzzer finds a fault. */
  readonly shadow?: (vm: SoftVm) => MemoryVirtualization;
  readonly modes?: readonly PagingMode[];
  /** What it is held against: two-dimensional paging. */
  readonly ept?: (vm: SoftVm) => MemoryVirtualization;
  readonly onProgress?: (steps: number) => void;
  /** Only this episode of the seed. */
  readonly only?: number;
  readonly verbose?: (line: string) => void;
}

export interface FuzzResult {
  readonly steps: number;
  readonly episodes: number;
  /** How accesses ended, by kind: that they do not all fault. */
  readonly ends: Readonly<Record<string, number>>;
  /** The first difference; null: none. */
  readonly failure: string | null;
}

const P = 1;
/** Top-level entries that the fuzzer leaves alone: three of 4 MiB, or one. */
const HONEST_ENTRIES = [0, 1, 2];
const AD_MASK = ~0x60;
const AC = 1 << 18;
const FLAGS = 2 | (3 << 12); // I/O privilege 3: user mode may tell
const EPISODE = 200;
const TABLES_END = ARENA.TABLES + ARENA.TABLE_FRAMES * 4096;

/** Shapes of an access by the program. */
interface Access {
  readonly routine: 'read' | 'write' | 'add' | 'xchg' | 'movs' | 'push' | 'fxsave' | 'exec';
  readonly linear: bigint;
  readonly second: bigint;
  readonly user: boolean;
  readonly ac: boolean;
  readonly value: bigint;
}

// ## Tables at random

class World {
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

function programOf(world: World, access: Access, ram: Uint8Array): Program {
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

const describe = ({ end, rax, code, cr2, log }: Ended): string =>
  `${end} rax ${rax.toString(16)}${end === 'page-fault' ? ` code ${code} cr2 ${cr2.toString(16)}` : ''} ${log}`;
const kindOf = (routine: Access['routine']): OracleAccess['kind'] =>
  routine === 'exec' ? 'exec' : routine === 'read' || routine === 'push' || routine === 'movs' ? 'read' : 'write';
/** True for an access that the oracle does not judge, because it lies on two pages. A push is as wide as the mode's stack. */
const straddles = ({ routine, linear }: Access, { paging }: World): boolean =>
  routine !== 'exec' && Number(linear & 0xfffn) + (routine === 'push' && paging === 'long' ? 8 : 4) > 0x1000;
const showAccess = ({ routine, linear, second, user, ac }: Access): string =>
  `${user ? 'user' : 'kernel'}${ac ? ' with AC' : ''} ${routine} 0x${linear.toString(16)}${routine === 'movs' ? ` to 0x${second.toString(16)}` : ''}`;

/** A store by the kernel through the window. Returns the program. */
const storeProgram = (world: World, gpa: number, [low, high]: readonly [number, number]): Program => {
  const wide = entryBytes(world.paging) === 8;
  const rax = world.paging === 'long' ? (BigInt(high) << 32n) | BigInt(low) : BigInt(low);
  return { rip: wide ? routineAt('store') : routineAt('write'), rsp: ARENA.STACK, rax, rbx: BigInt(gpa), rdx: BigInt(high), rflags: FLAGS };
};
const simple = (routine: 'invlpg' | 'setCr0' | 'setCr3' | 'setCr4', value: bigint): Program => ({
  rip: routineAt(routine),
  rsp: ARENA.STACK,
  rax: value,
  rbx: value,
  rflags: FLAGS,
});

// ## With flushes: all machines, to the last bit

class LockStep {
  readonly subjects: readonly Subject[];
  readonly ends: Record<string, number>;
  constructor(subjects: readonly Subject[], ends: Record<string, number>) {
    this.subjects = subjects;
    this.ends = ends;
  }

  episode(
    random: Random,
    steps: number,
    modes: readonly PagingMode[],
    verbose: ((line: string) => void) | undefined,
  ): { failure: string | null; done: number } {
    const first = this.subjects[0] as Subject;
    const world = new World(random, first.ram, modes, true);
    const subjects = this.subjects.filter((subject) => world.plain || subject.readOnly);
    for (const subject of subjects) {
      if (subject !== first) subject.ram.set(first.ram.subarray(0, ARENA.LARGE_END));
      if (subject.readOnly) fillReadOnly(subject.readOnly, new Random(7), world);
      subject.begin(world.control);
    }
    world.pdptes = pdptesOf(world);
    const all = (program: Program, what: string): { ended: Ended; failure: string | null } => {
      verbose?.(what);
      const results = subjects.map((subject) => subject.run(program));
      const ended = results[0] as Ended;
      this.ends[ended.end] = (this.ends[ended.end] ?? 0) + 1;
      // When a table lies in read-only memory, EPT has every instruction on that path emulated, and KVM's emulator does not know them all: it gives
      // up, or in user mode injects #UD. That is a known limit, and no answer.
      const beyond = ({ end, log }: Ended): boolean => end === 'fault' || (end === 'other' && log.includes('INTERNAL_ERROR'));
      if (!world.plain && results.some(beyond)) return { ended: { ...ended, end: 'shutdown' }, failure: null };
      // A table in a slot without memory: with EPT the kernel cannot resolve the processor's walk, without it there is simply no entry.
      if (!world.plain && results.some(({ end }) => end === 'memory-fault')) return { ended: { ...ended, end: 'shutdown' }, failure: null };
      const expected = describe(ended);
      verbose?.(`   ${expected}`);
      // The program has destroyed the ground that it stands on: one machine falls now, another when it flushes.
      if (!subjects.every(({ ram }) => world.isHonest(ram))) return { ended: { ...ended, end: 'shutdown' }, failure: null };
      // Nobody answers a bare processor where a guest finds a device; from here on they go different ways.
      const strayed = world.plain && ended.gpas.length > 0;
      for (let n = 1; n < results.length; n++) {
        if (strayed && !subjects[n]?.readOnly) continue;
        const got = describe(results[n] as Ended);
        // An end by the kernel's refusal says nothing of registers.
        if (got !== expected && !(ended.end === 'memory-fault' && results[n]?.end === 'memory-fault'))
          return { ended, failure: `${what}: ${first.name} says ${expected}; ${subjects[n]?.name} says ${got}` };
      }
      return { ended: strayed ? { ...ended, end: 'shutdown' } : ended, failure: null };
    };
    for (let step = 0; step < steps; step++) {
      const failure = this.#step(world, subjects, all);
      if (failure === 'end') return { failure: null, done: step + 1 };
      const compared = failure ?? (step % 16 === 15 || step === steps - 1 ? compareMemory(subjects, step === steps - 1) : null);
      if (compared) return { failure: `${world.paging} step ${step}: ${compared}`, done: step };
    }
    return { failure: null, done: steps };
  }

  #step(
    world: World,
    subjects: readonly Subject[],
    all: (program: Program, what: string) => { ended: Ended; failure: string | null },
  ): string | 'end' | null {
    const { random } = world;
    const over = ({ end }: Ended): boolean => end === 'shutdown' || end === 'other' || end === 'memory-fault';
    const flush = (): string | 'end' | null => {
      const programs =
        world.cr4 & CR4.PGE
          ? [world.cr4 & ~CR4.PGE, world.cr4].map((value) => simple('setCr4', BigInt(value)))
          : [simple('setCr3', BigInt(world.cr3))];
      for (const program of programs) {
        const { ended, failure } = all(program, 'flush');
        if (failure) return failure;
        if (ended.end !== 'done') return 'end'; // a malformed directory pointer: there is no flush
      }
      world.pdptes = pdptesOf(world);
      return null;
    };
    const choice = random.below(100);
    if (choice < 22) {
      const linear = random.pick(world.pages);
      const depth = random.below(LEVELS[world.paging].length);
      const found = world.entryAt(world.view, linear, depth);
      if (!found || world.isGround(found.gpa)) return null;
      const entry = world.entry(found.level);
      const stored = all(
        storeProgram(world, found.gpa, entry),
        `store ${entry.map((word) => word.toString(16)).join(':')} at 0x${found.gpa.toString(16)} level ${found.level}`,
      );
      return stored.failure ?? (over(stored.ended) ? 'end' : flush());
    }
    if (choice < 26) {
      const cr3 = random.pick(world.roots);
      const { ended, failure } = all(simple('setCr3', BigInt(cr3)), `CR3 = 0x${cr3.toString(16)}`);
      if (ended.end === 'done') world.cr3 = cr3;
      return failure ?? (over(ended) ? 'end' : flush());
    }
    if (choice < 29) {
      const cr0 = (world.cr0 ^ CR0.WP) >>> 0;
      const { ended, failure } = all(simple('setCr0', BigInt(cr0)), `CR0 = 0x${cr0.toString(16)}`);
      if (ended.end === 'done') world.cr0 = cr0;
      return failure ?? (over(ended) ? 'end' : flush());
    }
    if (choice < 31) {
      const cr4 = (world.cr4 ^ random.pick([CR4.SMEP, CR4.SMAP, CR4.PGE])) >>> 0;
      const { ended, failure } = all(simple('setCr4', BigInt(cr4)), `CR4 = 0x${cr4.toString(16)}`);
      if (ended.end === 'done') {
        world.cr4 = cr4;
        world.pdptes = pdptesOf(world);
      }
      return failure ?? (over(ended) ? 'end' : flush());
    }
    if (choice < 34) {
      const linear = random.pick(world.pages);
      return all(simple('invlpg', linear), `INVLPG 0x${linear.toString(16)}`).failure;
    }
    return this.#access(world, subjects, all, flush, over);
  }

  #access(
    world: World,
    subjects: readonly Subject[],
    all: (program: Program, what: string) => { ended: Ended; failure: string | null },
    flush: () => string | 'end' | null,
    over: (ended: Ended) => boolean,
  ): string | 'end' | null {
    const access = world.randomAccess();
    const expected = presentAnswer(world, world.view, access.linear, access);
    if (access.routine === 'exec' && 'gpa' in expected && !isGadget(world.view, expected.gpa)) return null; // whatever lies there is no program
    const tables = world.ram.slice(ARENA.TABLES, TABLES_END);
    let program!: Program;
    for (const subject of subjects) program = programOf(world, access, subject.ram);
    const { ended, failure } = all(program, showAccess(access));
    if (failure) return failure;
    const wrong = access.routine === 'fxsave' || straddles(access, world) ? null : judge(access, ended, [expected]);
    if (wrong) return `${showAccess(access)}: ${wrong}`;
    if (over(ended)) return 'end';
    // The program has written to a table (not only accessed and dirty bits): from now on the old translations may be used, so they are flushed.
    return tablesChanged(tables, world.ram) ? flush() : null;
  }
}

/** There is still `mov al, n; int 0x80` at this address of a data page. */
const isGadget = (view: DataView, gpa: number): boolean =>
  ((gpa >= ARENA.DATA && gpa < ARENA.DATA + ARENA.DATA_FRAMES * 4096) || (gpa >= ARENA.LARGE && gpa < ARENA.LARGE_END)) &&
  (view.getUint32(gpa, true) & 0xffff00ff) >>> 0 === 0x80cd00b0;

function tablesChanged(before: Uint8Array, ram: Uint8Array): boolean {
  const a = new Uint32Array(before.buffer, before.byteOffset, before.length >> 2);
  const b = new Uint32Array(ram.buffer, ram.byteOffset + ARENA.TABLES, before.length >> 2);
  for (let n = 0; n < a.length; n++) if (((a[n] as number) ^ (b[n] as number)) & AD_MASK) return true;
  return false;
}

function fillReadOnly(bytes: Uint8Array, random: Random, world: World): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at < bytes.length; at += 8) {
    view.setUint32(at, ARENA.DATA + random.below(ARENA.DATA_FRAMES) * 4096 + random.pick([0x67, 0x65, 7, 0x27]), true);
    view.setUint32(at + 4, entryBytes(world.paging) === 8 ? 0 : ARENA.DATA + 0x67, true);
  }
}

const hex = (value: number): string => `0x${value.toString(16)}`;

function compareMemory(subjects: readonly Subject[], whole: boolean): string | null {
  const [first, ...others] = subjects as [Subject, ...Subject[]];
  const words = ({ ram }: Subject): Uint32Array => new Uint32Array(ram.buffer, ram.byteOffset, ARENA.RAM_BYTES >> 2);
  const a = words(first);
  const end = whole ? ARENA.LARGE_END >> 2 : (ARENA.DATA + ARENA.DATA_FRAMES * 4096) >> 2;
  for (const other of others) {
    const b = words(other);
    for (let n = ARENA.TABLES >> 2; n < end; n++)
      if (a[n] !== b[n]) return `memory at ${hex(4 * n)}: ${first.name} has ${hex(a[n] as number)}, ${other.name} has ${hex(b[n] as number)}`;
  }
  return null;
}

// ## Judging one access

function presentAnswer(world: World, view: DataView, linear: bigint, access: Access): Answer {
  const values: EntryValues = (gpa) => presentEntry(world, view, gpa);
  return answers(world.oracleMode, world.cr3, world.pdptes, values, linear, {
    kind: kindOf(access.routine),
    user: access.user,
    ac: access.ac,
  })[0] as Answer;
}

let readOnlyImage: DataView | null = null;
function presentEntry(world: World, view: DataView, gpa: number): readonly (readonly [number, number])[] | null {
  if (gpa + 8 <= ARENA.RAM_BYTES) return [world.read(gpa, view)];
  if (gpa >= ARENA.READ_ONLY && gpa < ARENA.READ_ONLY + ARENA.READ_ONLY_FRAMES * 4096) {
    if (!readOnlyImage || readOnlyWorld !== world) {
      const bytes = new Uint8Array(ARENA.READ_ONLY_FRAMES * 4096);
      fillReadOnly(bytes, new Random(7), world);
      readOnlyImage = new DataView(bytes.buffer);
      readOnlyWorld = world;
    }
    return [world.read(gpa - ARENA.READ_ONLY, readOnlyImage)];
  }
  return null;
}
let readOnlyWorld: World | null = null;

/** PAE's registers were loaded when CR3 was; the fuzzer follows them by what it knows. */
const pdptesOf = (world: World): readonly (readonly [number, number])[] => {
  if (world.paging !== 'pae') return [];
  return [0, 1, 2, 3].map((n) => world.read(world.cr3 + 8 * n));
};

/** What is wrong with how an access ended; null: it is one of the answers. */
function judge(access: Access, ended: Ended, allowed: readonly Answer[]): string | null {
  if (access.routine === 'movs') return null; // two accesses: compared between machines only
  const show = allowed.map((answer) => ('code' in answer ? `#PF(${answer.code})` : `0x${answer.gpa.toString(16)}`)).join(', ');
  if (ended.end === 'page-fault') {
    if (ended.cr2 >> 12n !== access.linear >> 12n) return `#PF at 0x${ended.cr2.toString(16)}, oracle: ${show}`;
    return allowed.some((answer) => 'code' in answer && answer.code === ended.code) ? null : `#PF(${ended.code}), oracle: ${show}`;
  }
  if (ended.end === 'memory-fault') return allowed.some((answer) => 'gpa' in answer) ? null : `memory fault, oracle: ${show}`;
  if (ended.end !== 'done') return null;
  const good = allowed.some((answer) => 'gpa' in answer && (ended.gpas.length === 0 || ended.gpas.includes(answer.gpa)));
  return good ? null : `went through, oracle: ${show}`;
}

// ## Without flushes: one machine and what it may remember

/** What entries have been, and when that ended. */
class Memory {
  readonly past = new Map<number, { until: number; value: readonly [number, number] }[]>();
  now = 0;
  readonly flushedAt = new Map<bigint, number>();
  allFlushedAt = 0;
}

class Stale {
  readonly subject: Guest;
  readonly ends: Record<string, number>;
  constructor(subject: Guest, ends: Record<string, number>) {
    this.subject = subject;
    this.ends = ends;
  }

  episode(
    random: Random,
    steps: number,
    modes: readonly PagingMode[],
    verbose: ((line: string) => void) | undefined,
  ): { failure: string | null; done: number } {
    const { subject } = this;
    const world = new World(random, subject.ram, modes, false);
    fillReadOnly(subject.readOnly, new Random(7), world);
    subject.begin(world.control);
    const memory = new Memory();
    const size = entryBytes(world.paging);
    let tables = world.ram.slice(ARENA.TABLES, TABLES_END);
    /** Notes which entries the last run has changed. */
    const note = (): void => {
      memory.now++;
      const before = new Uint32Array(tables.buffer);
      const after = new Uint32Array(world.ram.buffer, world.ram.byteOffset + ARENA.TABLES, before.length);
      let changed = false;
      for (let n = 0; n < before.length; n++) {
        if (before[n] === after[n]) continue;
        changed = true;
        const at = size === 8 ? n & ~1 : n;
        const gpa = ARENA.TABLES + 4 * at;
        const history = memory.past.get(gpa) ?? [];
        const value = [before[at] as number, size === 8 ? (before[at + 1] as number) : 0] as const;
        const last = history.at(-1);
        if (!last || last.until !== memory.now) history.push({ until: memory.now, value });
        memory.past.set(gpa, history);
      }
      if (changed) tables = world.ram.slice(ARENA.TABLES, TABLES_END);
    };
    const run = (program: Program, what: string): Ended => {
      verbose?.(what);
      const ended = subject.run(program);
      verbose?.(`   ${describe(ended)}`);
      this.ends[ended.end] = (this.ends[ended.end] ?? 0) + 1;
      return ended;
    };
    const flushAll = (): void => {
      memory.past.clear();
      memory.flushedAt.clear();
      memory.allFlushedAt = memory.now;
      world.pdptes = pdptesOf(world);
    };
    world.pdptes = pdptesOf(world);
    for (let step = 0; step < steps; step++) {
      const choice = random.below(100);
      const fail = (what: string): { failure: string; done: number } => ({
        failure: `${subject.name}, ${world.paging}, without flushes, step ${step}: ${what}`,
        done: step,
      });
      if (choice < 25) {
        const linear = random.pick(world.pages);
        const found = world.entryAt(world.view, linear, random.below(LEVELS[world.paging].length));
        if (!found || world.isGround(found.gpa)) continue;
        const ended = run(storeProgram(world, found.gpa, world.entry(found.level)), `store at 0x${found.gpa.toString(16)} level ${found.level}`);
        if (ended.end !== 'done' || !world.isHonest(subject.ram)) return { failure: null, done: step };
        note();
        if (random.chance(0.3)) {
          run(simple('invlpg', linear), `INVLPG 0x${linear.toString(16)}`);
          memory.flushedAt.set(linear, memory.now);
        }
        continue;
      }
      if (choice < 31) {
        const cr3 = random.pick(world.roots);
        const ended = run(simple('setCr3', BigInt(cr3)), `CR3 = 0x${cr3.toString(16)}`);
        if (ended.end === 'done') {
          world.cr3 = cr3;
          flushAll();
        } else if (ended.end !== 'fault') return { failure: null, done: step };
        continue;
      }
      if (choice < 35) {
        const linear = random.pick(world.pages);
        run(simple('invlpg', linear), `INVLPG 0x${linear.toString(16)}`);
        memory.flushedAt.set(linear, memory.now);
        continue;
      }
      const access = world.randomAccess();
      if (access.routine === 'movs' || straddles(access, world)) continue;
      const page = access.linear & ~0xfffn;
      const since = memory.flushedAt.get(page) ?? memory.allFlushedAt;
      const values: EntryValues = (gpa) => {
        const present = presentEntry(world, world.view, gpa);
        if (!present) return null;
        const old = memory.past.get(gpa);
        if (!old) return present;
        return [...present, ...old.filter(({ until }) => until > since).map(({ value }) => value)];
      };
      const kind = kindOf(access.routine);
      const allowed = answers(world.oracleMode, world.cr3, world.pdptes, values, access.linear, { kind, user: access.user, ac: access.ac }, 512);
      if (allowed.length >= 512) continue; // too many to be a test
      if (kind === 'exec' && allowed.some((answer) => 'gpa' in answer && !isGadget(world.view, answer.gpa))) continue;
      const marker = BigInt(0xc0de0000 + (memory.now & 0xffff));
      const before = allowed.map((answer) => ('gpa' in answer && answer.gpa + 4 <= ARENA.RAM_BYTES ? world.view.getUint32(answer.gpa, true) : null));
      const ended = run(programOf(world, { ...access, value: marker }, subject.ram), showAccess(access));
      if (!world.isHonest(subject.ram)) return { failure: null, done: step };
      if (ended.end === 'shutdown' || ended.end === 'other' || ended.end === 'memory-fault') return { failure: null, done: step };
      const wrong =
        judge(access, ended, allowed) ??
        (ended.end === 'done' && ended.gpas.length === 0 ? where(world, access, ended, allowed, before, marker) : null);
      if (wrong) return fail(`${showAccess(access)}: ${wrong}`);
      note();
    }
    return { failure: null, done: steps };
  }
}

/** Checks by the data where an access went. */
function where(
  world: World,
  access: Access,
  ended: Ended,
  allowed: readonly Answer[],
  before: readonly (number | null)[],
  marker: bigint,
): string | null {
  const show = allowed.map((answer) => ('code' in answer ? `#PF(${answer.code})` : `0x${answer.gpa.toString(16)}`)).join(', ');
  const matches = allowed.some((answer, n) => {
    if (!('gpa' in answer)) return false;
    if (answer.gpa + 4 > ARENA.RAM_BYTES) return true; // read-only memory: the content is not followed
    const old = before[n] as number;
    switch (access.routine) {
      case 'read':
        return Number(ended.rax & 0xffffffffn) === old || isTable(answer.gpa); // the walk itself may have marked what was then read
      case 'write':
        return world.view.getUint32(answer.gpa, true) === Number(marker) || isTable(answer.gpa);
      case 'add':
        return world.view.getUint32(answer.gpa, true) === (old + Number(marker)) >>> 0 || isTable(answer.gpa);
      case 'xchg':
        return (world.view.getUint32(answer.gpa, true) === Number(marker) && Number(ended.rax & 0xffffffffn) === old) || isTable(answer.gpa);
      case 'exec':
        return Number(ended.rax & 0xffn) === ((old >>> 8) & 0xff);
      default:
        return true;
    }
  });
  return matches ? null : `the data is from nowhere that the oracle knows: ${show}`;
}
const isTable = (gpa: number): boolean => gpa >= ARENA.TABLES && gpa < TABLES_END;

// ## The campaign

/** Runs the fuzzer. Stops at the first failure. */
export function fuzz({
  seed,
  steps,
  episode = EPISODE,
  shadow = makeShadowMemory,
  ept = (vm) => new TwoDimensional(vm),
  modes = PAGING_MODES,
  onProgress,
  only,
  verbose,
}: FuzzOptions): FuzzResult {
  const ends: Record<string, number> = {};
  const guests = [new Guest('ept', ept), new Guest('shadow', shadow)] as const;
  const lockStep = new LockStep([...guests, new Bare()], ends);
  const alone = guests.map((guest) => new Stale(guest, ends));
  let done = 0;
  let episodes = 0;
  let failure: string | null = null;
  try {
    while (done < steps && failure === null) {
      const number = episodes++;
      if (only !== undefined && number !== only) {
        if (number > only) break;
        continue;
      }
      const random = new Random(seed * 100_003 + number);
      const kind = number % 4;
      const length = Math.min(episode, steps - done);
      const result = kind < 2 ? lockStep.episode(random, length, modes, verbose) : (alone[kind - 2] as Stale).episode(random, length, modes, verbose);
      done += Math.max(1, result.done);
      if (result.failure) failure = `seed ${seed}, episode ${number}: ${result.failure}`;
      onProgress?.(done);
    }
  } finally {
    for (const guest of guests) guest.free();
  }
  return { steps: done, episodes, ends, failure };
}

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
import { ARENA, entryBytes, LEVELS, PAGING_MODES, type PagingMode } from './fuzz/arena.ts';
import { type Answer, answers, type EntryValues } from './fuzz/oracle.ts';
import { Bare, type Ended, Guest, type Program, type Subject } from './fuzz/subjects.ts';
import {
  type Access,
  AD_MASK,
  describe,
  EPISODE,
  kindOf,
  programOf,
  showAccess,
  simple,
  storeProgram,
  straddles,
  TABLES_END,
  World,
} from './fuzz/world.ts';
import { TwoDimensional } from './kernel/two-dimensional.ts';
import { Random } from './random.ts';
import { makeShadowMemory } from './shadow/index.ts';

interface FuzzOptions {
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

interface FuzzResult {
  readonly steps: number;
  readonly episodes: number;
  /** How accesses ended, by kind: that they do not all fault. */
  readonly ends: Readonly<Record<string, number>>;
  /** The first difference; null: none. */
  readonly failure: string | null;
}

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

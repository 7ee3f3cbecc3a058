// # What a translation costs
//
// A TLB exists because a walk is expensive, and a second stage makes it more so: each entry of the guest's tables is at a guest physical address, and
// finding *that* takes a walk of the other tables. With {{LEVELS}} levels in each dimension the references come to
// ({{LEVELS}} + 1) × ({{LEVELS}} + 1) − 1 = {{references({ nested: '4K' })}}, against {{references()}} for the same guest without a second stage. Not every
// miss pays that much, because processors keep caches for the upper levels of both trees; but those can only forget, and this count is what they
// start from. Large pages cut both factors: with pages of 2 MiB in both it is {{references({ page: '2M', nested: '2M' })}}.
//
// ## A bench for walks
//
// Each walk below is *performed*: tables are written to a small machine's memory, its MMU is asked for one address, and the trace says what it read.
// Whatever draws a walk or counts one takes it from here, and so shows what the processor does and not what its author believes.

import { Fault, VmExit } from '../01-hardware-background/faults.ts';
import type { EptContext } from '../01-hardware-background/intercepts.ts';
import { EPT_ENTRY } from '../01-hardware-background/mmu/ept.ts';
import { ACCESS, Mmu, PRIVILEGE } from '../01-hardware-background/mmu/mmu.ts';
import { ENTRY, FORMAT, type Format } from '../01-hardware-background/mmu/paging.ts';
import { assert, PAGE_BYTES, PhysicalMemory } from '../01-hardware-background/physical-memory.ts';
import { CpuState, CR0, CR4, EFER, OFFSET } from '../01-hardware-background/state.ts';
import { Recorder, type Timed, type TraceEvent } from '../01-hardware-background/trace.ts';
import { EXIT_REASON } from '../01-hardware-background/vmx/exit-reasons.ts';
import { RamOwners } from '../02-kvm-objects/soft/memory.ts';
import { bytesAt, EptTables, LEVEL, type LeafLevel, RIGHTS } from './kernel/ept-tables.ts';

/** The guest's paging modes. */
export type GuestFormat = '4-level' | 'PAE' | '32-bit';
/** Page sizes: 4M only with 32-bit paging, 1G only with 4 levels. */
export type PageSize = '4K' | '2M' | '4M' | '1G';

export interface WalkConfig {
  /** Default: 4-level. */
  readonly guest?: GuestFormat;
  /** The size of the page that the guest's tables map. Default: 4K. */
  readonly page?: PageSize;
  /** The size of the second stage's pages; null, the default: there is no second stage. */
  readonly nested?: '4K' | '2M' | '1G' | null;
  /** Default: read. */
  readonly access?: 'read' | 'write' | 'fetch';
  /** Default: supervisor. */
  readonly privilege?: 'supervisor' | 'user';
  /** Changes to entries before the walk: `reference` is the number of the entry's first reference in the walk without changes, from 1. */
  readonly edits?: readonly { readonly reference: number; readonly set?: bigint; readonly clear?: bigint }[];
}

/** One reference of a walk. */
export interface Reference {
  /** From 1, in the order of the processor. */
  readonly n: number;
  readonly stage: 1 | 2;
  readonly level: number;
  /** `PML4`, `EPT directory`, ... */
  readonly structure: string;
  /** PAE's first level is in registers: this is no memory reference. */
  readonly register: boolean;
  /** The address that this walk translates: linear in stage 1, guest physical in stage 2. */
  readonly translates: bigint;
  /** Which of its bits are the index, and what they are. */
  readonly bits: readonly [high: number, low: number];
  readonly index: number;
  /** Where the entry is: guest physical in stage 1 under a second stage, else host physical. */
  readonly entry: number;
  /** As the processor read it, before it set a bit. */
  readonly value: bigint;
  /** Names of the bits that are set in the entry's low word. */
  readonly flags: string;
  /** It maps a page. */
  readonly leaf: boolean;
  /** What it refers to: the next table, or the page. */
  readonly target: number;
  /**
   * In stage 2: the number of the stage-1 reference whose entry is being found; null for the last group, which finds the byte or ends in the exit. In
   * stage 1: itself.
   */
  readonly serves: number | null;
}

export type WalkResult =
  | { readonly kind: 'translated'; readonly hpa: number }
  | { readonly kind: 'fault'; readonly errorCode: number }
  | { readonly kind: 'exit'; readonly reason: 'EPT_VIOLATION' | 'EPT_MISCONFIG'; readonly gpa: number; readonly qualification: bigint };

export interface Walk {
  readonly linear: bigint;
  /** Where the byte is for the guest. */
  readonly gpa: number;
  readonly references: readonly Reference[];
  readonly result: WalkResult;
}

// ## The machine
//
// The byte is always at the same guest physical address, whatever the size of the page around it, so that walks can be compared entry by entry.

const GPA = 0x345678;
export const GUEST_TABLES = 0x10000; // guest physical address of the guest's first table
/** How far host physical addresses are from guest physical ones. A 1 GiB page can only be where the host's first gigabyte is. */
const DISTANCE = { '4K': 0x200000, '2M': 0x200000, '1G': 0 } as const;
const RAM = 8 << 20;
const SECOND_STAGE_LEVEL = { '4K': LEVEL.PAGE_4K, '2M': LEVEL.PAGE_2M, '1G': LEVEL.PAGE_1G } as const satisfies Record<string, LeafLevel>;
const LEAF_LEVEL = { '4K': 1, '2M': 2, '4M': 2, '1G': 3 } as const;

/** A guest's paging mode: the format of its entries, the registers that choose it, the address that is asked for. */
interface Mode {
  readonly format: Format;
  readonly linear: bigint;
  readonly cr4: number;
  readonly efer: number;
  readonly sizes: readonly PageSize[];
  readonly names: readonly string[];
}
export const MODES: Record<GuestFormat, Mode> = {
  '4-level': {
    format: FORMAT.level4,
    linear: 0xffff_8123_4000_0000n + BigInt(GPA),
    cr4: CR4.PAE,
    efer: EFER.LME | EFER.LMA | EFER.NXE,
    sizes: ['4K', '2M', '1G'],
    names: ['', 'table', 'directory', 'directory pointers', 'PML4'],
  },
  PAE: {
    format: FORMAT.pae,
    linear: 0x8000_0000n + BigInt(GPA),
    cr4: CR4.PAE,
    efer: EFER.NXE,
    sizes: ['4K', '2M'],
    names: ['', 'table', 'directory', 'directory pointers'],
  },
  '32-bit': {
    format: FORMAT.bits32pse,
    linear: 0x8000_0000n + BigInt(GPA),
    cr4: CR4.PSE,
    efer: 0,
    sizes: ['4K', '4M'],
    names: ['', 'table', 'directory'],
  },
};
const NESTED_NAMES = ['', 'EPT table', 'EPT directory', 'EPT directory pointers', 'EPT PML4'];

/** The entries of a guest that maps the one byte, and where they are in its memory. */
export function guestTables({ format, linear, sizes }: Mode, page: PageSize): { readonly gpa: number; readonly value: bigint }[] {
  if (!sizes.includes(page)) throw new RangeError(`this format has no pages of ${page}`);
  const user = ENTRY.mask.P | ENTRY.mask.RW | ENTRY.mask.US;
  const entries: { gpa: number; value: bigint }[] = [];
  let table = GUEST_TABLES;
  if (format === FORMAT.pae) {
    entries.push({ gpa: table + 8 * Number(linear >> 30n), value: BigInt(table + PAGE_BYTES) | 1n });
    table += PAGE_BYTES;
  }
  for (const { level, shift, indexBits } of format.levels) {
    const index = Number((linear >> BigInt(shift)) & ((1n << BigInt(indexBits)) - 1n));
    const leaf = level === LEAF_LEVEL[page];
    const target = leaf ? GPA - (GPA % 2 ** shift) : table + PAGE_BYTES;
    const bits = user | (leaf && level > 1 ? ENTRY.mask.PS : 0);
    entries.push({ gpa: table + index * format.entryBytes, value: BigInt(target) | BigInt(bits) });
    if (leaf) break;
    table = target;
  }
  return entries;
}

/** Paging structures of one configuration in the memory of one machine. */
class Bench {
  readonly mode: Mode;
  readonly memory = new PhysicalMemory({ ramBytes: RAM, privateBytes: 4 << 20 });
  readonly trace = new Recorder({ only: ['walk'] });
  readonly state: CpuState;
  readonly mmu: Mmu;
  readonly #ept: EptContext | null;
  readonly #distance: number;

  constructor({ guest = '4-level', page = '4K', nested = null }: WalkConfig) {
    this.mode = MODES[guest];
    this.state = new CpuState(this.memory);
    this.#ept = nested && this.#secondStage(nested);
    this.#distance = nested ? DISTANCE[nested] : 0;
    this.mmu = new Mmu({
      memory: this.memory,
      state: this.state,
      trace: this.trace,
      bus: { read: (_address, bytes) => (1n << BigInt(8 * bytes)) - 1n, write() {} },
      ept: () => this.#ept,
      holdsCode: () => false,
      codeWritten() {},
      mappingsChanged() {},
    });
    this.#guestTables(page);
  }

  #secondStage(size: '4K' | '2M' | '1G'): EptContext {
    const tables = new EptTables(this.memory, new RamOwners(this.memory));
    const level = SECOND_STAGE_LEVEL[size];
    const step = bytesAt(level);
    for (const gpa of [GUEST_TABLES, GUEST_TABLES + PAGE_BYTES, GUEST_TABLES + 2 * PAGE_BYTES, GUEST_TABLES + 3 * PAGE_BYTES, GPA]) {
      const start = gpa - (gpa % step);
      const mapped = tables.find(gpa) !== null || tables.map(start, level, start + DISTANCE[size], RIGHTS.ALL);
      assert(mapped, 'the bench has room for its tables');
    }
    return { root: tables.root, accessedDirty: true, executeOnly: true };
  }

  #guestTables(page: PageSize): void {
    const { format, cr4, efer } = this.mode;
    for (const { gpa, value } of guestTables(this.mode, page)) this.poke(gpa, value, format.entryBytes);
    this.state.set64(OFFSET.CR0, BigInt((CR0.PE | CR0.PG | CR0.WP) >>> 0));
    this.state.set64(OFFSET.CR4, BigInt(cr4));
    this.state.set64(OFFSET.EFER, BigInt(efer));
    this.state.set64(OFFSET.CR3, BigInt(GUEST_TABLES));
    if (format === FORMAT.pae) assert(this.mmu.loadPdptes(BigInt(GUEST_TABLES)), 'the four registers are well formed');
  }

  /** Writes guest physical memory. */
  poke(gpa: number, value: bigint, bytes: 4 | 8): void {
    const at = this.memory.offset(gpa + this.#distance, bytes);
    if (bytes === 8) this.memory.view.setBigUint64(at, value, true);
    else this.memory.view.setUint32(at, Number(value), true);
  }

  edit({ stage, entry, register }: Reference, set: bigint, clear: bigint): void {
    const bytes = stage === 2 ? 8 : this.mode.format.entryBytes;
    const at = this.memory.offset(stage === 1 ? entry + this.#distance : entry, bytes);
    const { view } = this.memory;
    const old = bytes === 8 ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true));
    const value = (old | set) & ~clear;
    if (bytes === 8) view.setBigUint64(at, value, true);
    else view.setUint32(at, Number(BigInt.asUintN(32, value)), true);
    // The registers keep what they had until the next MOV to CR3. A malformed entry would be refused by that; then they keep it still.
    if (register) this.mmu.loadPdptes(BigInt(GUEST_TABLES));
  }

  walk(config: WalkConfig): Walk {
    const { linear } = this.mode;
    this.mmu.flush();
    this.trace.events.length = 0;
    const result = attempt(this.mmu, linear, config);
    const unreached = result.kind === 'exit' ? result.gpa : GPA;
    return { linear, gpa: GPA, references: describe(this.mode, this.trace.of('walk'), unreached), result };
  }
}

/** Asks an MMU for an address as the configuration says. */
export function attempt(mmu: Mmu, linear: bigint, { access = 'read', privilege = 'supervisor' }: WalkConfig): WalkResult {
  const kind = access === 'read' ? ACCESS.READ : access === 'write' ? ACCESS.WRITE : ACCESS.FETCH;
  try {
    return { kind: 'translated', hpa: mmu.physical(linear, kind, privilege === 'user' ? PRIVILEGE.USER : PRIVILEGE.SUPERVISOR) };
  } catch (thrown) {
    if (thrown instanceof Fault) return { kind: 'fault', errorCode: thrown.errorCode ?? 0 };
    if (!(thrown instanceof VmExit)) throw thrown;
    const { guestPhysicalAddress = 0 } = thrown.details;
    const reason = thrown.reason === EXIT_REASON.EPT_MISCONFIG ? 'EPT_MISCONFIG' : 'EPT_VIOLATION';
    return { kind: 'exit', reason, gpa: guestPhysicalAddress, qualification: thrown.qualification };
  }
}

// ## Reading the trace
//
// The processor reports the second stage's references before the entry that they lead to. So whom a group of them serves is known at its end: the
// next reference of stage 1, or, when none follows, the byte itself.

type WalkEvent = Extract<Timed, { kind: 'walk' }>;

/** `last`: the guest physical address that a group of stage 2 was for when no reference of stage 1 follows it. */
export function describe({ format, linear, names }: Mode, events: readonly WalkEvent[], last: number): Reference[] {
  return events.map(({ stage, level, entry, value }, at) => {
    const n = at + 1;
    const next = events.findIndex((event, index) => index >= at && event.stage === 1);
    const served = next < 0 ? null : (events[next] as WalkEvent);
    const register = stage === 1 && format === FORMAT.pae && level === 3;
    const shift = stage === 2 ? 12 + 9 * (level - 1) : register ? 30 : (format.levels.find((row) => row.level === level)?.shift ?? 0);
    const width = stage === 2 ? 9 : register ? 2 : (format.levels[0]?.indexBits ?? 9);
    const translates = stage === 1 ? linear : BigInt(served?.entry ?? last);
    const leaf = !register && (level === 1 || (level < 4 && (value & BigInt(ENTRY.mask.PS)) !== 0n));
    const low = Number(value & 0xfffn);
    const base = Number(value & 0xff_ffff_f000n);
    return {
      n,
      stage,
      level,
      structure: (stage === 2 ? NESTED_NAMES : names)[level] as string,
      register,
      translates,
      bits: [shift + width - 1, shift],
      index: Number((translates >> BigInt(shift)) & ((1n << BigInt(width)) - 1n)),
      entry,
      value,
      flags: (stage === 2 ? EPT_ENTRY : ENTRY).describe(low),
      leaf,
      target: leaf ? base - (base % 2 ** shift) : base,
      serves: next < 0 ? null : next + 1,
    };
  });
}

// ## Asking for a walk

/**
 * Performs one walk and returns its references in order.
 * @throws RangeError for a page size that the guest's format does not have, or an edit of a reference that the walk does not have
 */
export function recordWalk(config: WalkConfig = {}): Walk {
  const { edits = [] } = config;
  const bench = new Bench(config);
  if (edits.length === 0) return bench.walk(config);
  const { references: unedited } = new Bench(config).walk(config);
  for (const { reference, set = 0n, clear = 0n } of edits) {
    const found = unedited[reference - 1];
    if (!found) throw new RangeError(`the walk has ${unedited.length} references, and no number ${reference}`);
    bench.edit(found, set, clear);
  }
  return bench.walk(config);
}

/** How many memory references a walk of this configuration takes; registers do not count. */
export const references = (config: WalkConfig = {}): number => recordWalk(config).references.filter(({ register }) => !register).length;

/** Of the largest case, for the text. */
export const LEVELS = FORMAT.level4.levels.length;

/** The rows of the comparison: guests' tables by page size, columns by second stage. */
export const GUESTS: readonly (readonly [GuestFormat, PageSize])[] = (Object.keys(MODES) as GuestFormat[]).flatMap((guest) =>
  MODES[guest].sizes.map((page) => [guest, page] as const),
);
export const SECOND_STAGES = [null, '4K', '2M', '1G'] as const;

/** The comparison: a row for each of {@link GUESTS}, in it the references for each of {@link SECOND_STAGES}. */
export const comparison = (): number[][] => GUESTS.map(([guest, page]) => SECOND_STAGES.map((nested) => references({ guest, page, nested })));

// ## Counting in a run
//
// The same events come out of a machine that runs, where walks follow one another and some end in an exit. Whatever ends a walk stands behind it in the
// trace.

/** What the walks of a run cost. */
export interface WalkTotals {
  /** Walks that were begun, and how many of them found a page. */
  readonly walks: number;
  readonly filled: number;
  readonly stage1: number;
  readonly stage2: number;
}

/** Adds up walks as they are reported: events of the kinds `walk`, `tlb_fill`, `kvm_exit` and `exception`. */
export class WalkCounter {
  readonly totals = { walks: 0, filled: 0, stage1: 0, stage2: 0 };
  #open = false;

  see(event: TraceEvent): void {
    const { totals } = this;
    if (event.kind === 'walk') {
      if (!this.#open) totals.walks++;
      this.#open = true;
      totals[event.stage === 1 ? 'stage1' : 'stage2']++;
    } else if (event.kind === 'tlb_fill' || event.kind === 'kvm_exit' || event.kind === 'exception') {
      if (this.#open && event.kind === 'tlb_fill') totals.filled++;
      this.#open = false;
    }
  }
}

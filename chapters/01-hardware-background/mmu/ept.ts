// # The second stage
//
// What the guest calls a physical address is, to the machine, one more virtual one. The second stage (Intel: extended page tables, AMD: nested page
// tables, in older texts MMU2) translates it with tables that only the hypervisor writes. The format is that of 4-level paging with different low
// bits: there is no user and no supervisor, because the hypervisor does not care; there are three permissions, and a memory type in place of the
// caching bits.
//
// It differs in one more way, and that is what makes it virtualization: a failure is reported to the *hypervisor*, as a VM exit, and not to the
// guest, who could do nothing about it. There are two kinds. A **violation** means that the tables forbid the access: the page is absent, or
// read-only. Hypervisors live on violations: first touches, dirty logging, and device registers all arrive as one. A **misconfiguration** means
// that the tables themselves make no sense. KVM turned that into a tool: an entry that can never be valid is a very fast way to say "this is a
// device".
//
// ::layout EPT_ENTRY -- The low word of an EPT entry that maps a page. Above bit 11 is the address of the page.

import { VmExit } from '../faults.ts';
import type { EptContext } from '../intercepts.ts';
import { bit, bitfield, bits } from '../layout.ts';
import type { PhysicalMemory } from '../physical-memory.ts';
import type { Trace } from '../trace.ts';
import { PHYSICAL_ADDRESS_BITS } from './paging.ts';

/** The low word of an EPT entry that maps a page (Intel SDM vol. 3, "EPT Translation Mechanism"). */
export const EPT_ENTRY = bitfield('EPT entry, low word', {
  R: bit(0, 'data reads'),
  W: bit(1, 'data writes'),
  X: bit(2, 'instruction fetches'),
  MT: bits(3, 5, 'memory type: 0 uncached, 1 WC, 4 WT, 5 WP, 6 write-back'),
  IPAT: bit(6, "ignore the guest's PAT"),
  PS: bit(7, 'maps a 1 GiB or 2 MiB page'),
  A: bit(8, 'accessed'),
  D: bit(9, 'dirty'),
});

/** What the access was, in the low bits of the exit qualification. */
export const EPT_ACCESS = { READ: 1, WRITE: 2, FETCH: 4 } as const;

/** Exit qualification of an EPT violation. Bits 3..5 are the permissions that the tables gave, ANDed over the levels. */
export const EPT_QUALIFICATION = bitfield('EPT violation qualification', {
  READ: bit(0),
  WRITE: bit(1),
  FETCH: bit(2),
  READABLE: bit(3),
  WRITABLE: bit(4),
  EXECUTABLE: bit(5),
  LINEAR_VALID: bit(7, 'the guest-linear-address field is valid'),
  FINAL: bit(8, 'the translation of a linear address, not a reference to a guest paging structure'),
  NMI_UNBLOCKING: bit(12),
});

const { mask: E } = EPT_ENTRY;
const { mask: Q } = EPT_QUALIFICATION;
const EXIT_EPT_VIOLATION = 48;
const EXIT_EPT_MISCONFIG = 49;
const HIGH_ADDRESS = 2 ** (PHYSICAL_ADDRESS_BITS - 32) - 1;
const HIGH_RESERVED = ~HIGH_ADDRESS & 0xfffff; // address bits that this processor does not have, up to bit 51
const RWX = E.R | E.W | E.X;
/** Memory types 2, 3 and 7 do not exist. */
const BAD_TYPES = (1 << 2) | (1 << 3) | (1 << 7);

/** Which guest access a second-stage walk serves: for the exit qualification. */
export interface EptAccess {
  /** Bits of EPT_ACCESS. */
  readonly kind: number;
  /** LINEAR_VALID and FINAL, as they apply. */
  readonly origin: number;
  readonly linear: bigint | null;
}

/**
 * What reading an entry of the guest's own tables is to the second stage: with accessed and dirty bits there, a write (Intel SDM vol. 3, "Accessed and
 * Dirty Flags for EPT").
 */
export const entryAccess = (ept: EptContext, linear: bigint | null): EptAccess => ({
  kind: ept.accessedDirty ? EPT_ACCESS.READ | EPT_ACCESS.WRITE : EPT_ACCESS.READ,
  origin: linear === null ? 0 : Q.LINEAR_VALID,
  linear,
});

/** Who walks second-stage tables, in whatever format. The results of the last successful walk stay in the fields. */
export interface SecondStage {
  readonly readable: boolean;
  readonly writable: boolean;
  readonly executable: boolean;
  readonly dirty: boolean;
  readonly refusal: VmExit | null;
  translate(ept: EptContext, gpa: number, access: EptAccess): number;
  find(ept: EptContext, gpa: number, access: EptAccess): number;
}

/** Walks Intel's. */
export class EptWalker implements SecondStage {
  readable = false;
  writable = false;
  executable = false;
  /** True when no dirty bit has to be set before a write: it is set, or the tables have none. */
  dirty = false;
  /** log2 of the size of the page found. */
  shift = 12;
  /** After `find` has returned -1: why. */
  refusal: VmExit | null = null;
  readonly #memory: PhysicalMemory;
  readonly #trace: Trace | null;
  readonly #path = new Float64Array(4); // buffer offsets of the entries used, which may be above 2 GiB
  #lo = 0;
  #hi = 0;

  constructor(memory: PhysicalMemory, trace: Trace | null) {
    this.#memory = memory;
    this.#trace = trace;
  }

  /**
   * Host physical address of guest physical address `gpa`.
   * @throws VmExit with reason 48 (violation) or 49 (misconfiguration).
   */
  translate(ept: EptContext, gpa: number, access: EptAccess): number {
    const hpa = this.find(ept, gpa, access);
    if (hpa < 0) throw this.refusal;
    return hpa;
  }

  /** The same, but returns -1 in the place of an exit. For device accesses, which end so every time. */
  find(ept: EptContext, gpa: number, access: EptAccess): number {
    // @clause x86.ept.gpa-width
    if (gpa >= 2 ** 48) return this.#violation(gpa, access, 0);
    const low = gpa >>> 0;
    const high = (gpa - low) / 2 ** 32;
    let table = ept.root;
    let allowed = RWX;
    for (let level = 4; ; level--) {
      const below = 12 + 9 * (level - 1); // address bits translated by lower levels
      const index = level === 4 ? high >>> 7 : level === 3 ? ((high << 2) | (low >>> 30)) & 0x1ff : (low >>> below) & 0x1ff;
      const at = this.#read(table + 8 * index, level);
      const lo = this.#lo;
      const hi = this.#hi;
      // @clause x86.ept.not-present
      if ((lo & RWX) === 0) return this.#violation(gpa, access, 0);
      const leaf = level === 1 || ((lo & E.PS) !== 0 && level <= 3);
      if (this.#misconfigured(lo, hi, level, leaf, ept)) {
        this.refusal = new VmExit(EXIT_EPT_MISCONFIG, 0n, { guestPhysicalAddress: gpa });
        return -1;
      }
      allowed &= lo;
      this.#path[4 - level] = at;
      if (!leaf) {
        table = (hi & HIGH_ADDRESS) * 2 ** 32 + ((lo & 0xfffff000) >>> 0);
        continue;
      }
      // @clause x86.ept.permissions
      if ((access.kind & ~allowed) !== 0) return this.#violation(gpa, access, allowed);
      this.#mark(ept, 4 - level, access.kind);
      this.readable = (allowed & E.R) !== 0;
      this.writable = (allowed & E.W) !== 0;
      this.executable = (allowed & E.X) !== 0;
      this.shift = below;
      const inside = (1 << below) - 1;
      return (hi & HIGH_ADDRESS) * 2 ** 32 + (((lo & ~inside) | (low & inside)) >>> 0);
    }
  }

  // Entries outside of RAM read as all ones, like any address where nobody answers; such an entry is misconfigured.
  #read(address: number, level: number): number {
    const { view } = this.#memory;
    const at = this.#memory.holds(address, 8) ? this.#memory.ramOffset + address : -1;
    this.#lo = at < 0 ? -1 : view.getInt32(at, true);
    this.#hi = at < 0 ? -1 : view.getInt32(at + 4, true);
    if (this.#trace) {
      const value = (BigInt(this.#hi >>> 0) << 32n) | BigInt(this.#lo >>> 0);
      this.#trace.emit({ kind: 'walk', stage: 2, level, entry: address, value });
    }
    return at;
  }

  // @clause x86.ept.misconfiguration
  #misconfigured(lo: number, hi: number, level: number, leaf: boolean, ept: EptContext): boolean {
    if ((lo & E.W) !== 0 && (lo & E.R) === 0) return true;
    if ((lo & RWX) === E.X && !ept.executeOnly) return true;
    if ((hi & HIGH_RESERVED) !== 0) return true;
    if (!leaf) return (lo & (level === 4 ? 0xf8 : 0x78)) !== 0;
    if ((BAD_TYPES >> EPT_ENTRY.get(lo, 'MT')) & 1) return true;
    const low = (1 << (12 + 9 * (level - 1))) - 0x1000; // address bits below the page's size
    return (lo & low) !== 0;
  }

  // With accessed and dirty bits enabled, *reading* a guest page-table entry counts as a write: the guest's own walk may set bits in it, and the
  // hardware does not wait to see whether it does. A hypervisor that write-protects its guest's tables learns of each walk this way.
  // @clause x86.ept.accessed-dirty
  #mark(ept: EptContext, leaf: number, kind: number): void {
    const { view } = this.#memory;
    this.dirty = true;
    if (!ept.accessedDirty) return;
    for (let i = 0; i <= leaf; i++) {
      const at = this.#path[i] as number;
      const lo = view.getInt32(at, true);
      const wanted = lo | E.A | (i === leaf && kind & EPT_ACCESS.WRITE ? E.D : 0);
      if (wanted !== lo) view.setInt32(at, wanted, true);
      if (i === leaf) this.dirty = (wanted & E.D) !== 0;
    }
  }

  // @clause x86.ept.violation-qualification
  #violation(gpa: number, access: EptAccess, allowed: number): -1 {
    const given = (allowed & RWX) * Q.READABLE;
    this.refusal = new VmExit(EXIT_EPT_VIOLATION, BigInt(access.kind | given | access.origin), {
      guestPhysicalAddress: gpa,
      ...(access.linear !== null && { guestLinearAddress: access.linear }),
    });
    return -1;
  }
}

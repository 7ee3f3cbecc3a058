// # The other second stage
//
// AMD had nested paging a year before Intel had EPT, and took the shorter way: the second stage is an ordinary page table. The hypervisor that can
// fill its own can fill the guest's, with the same code and the same bits; KVM's `kvm_mmu` for NPT is the one that it uses for a host-format walk.
// What an ordinary page table has and a second stage does not need was given a meaning, or a rule:
//
// - *User.* An ordinary table tells user pages from kernel pages. Every nested access counts as a user access, so each entry of the nested table must
//   have the user bit, and the guest's own kernel and user rights are left to the guest's table.
// - *Guest page tables.* The processor reads them, and may write accessed and dirty bits into them. Their nested accesses count as user *writes*,
//   always, so that a hypervisor which write-protects them learns of every walk. (EPT does so only when it has accessed and dirty bits of its own.)
// - *Execute.* There is the NX bit, and nothing that would let a page be executed but not read.
// - *Errors.* A page fault's error code already says what went wrong. It is reported in EXITINFO1 of a nested page fault, with two bits more: was
//   it the guest's page, or a table on the way to it? The guest physical address is in EXITINFO2. There is no misconfiguration: a reserved bit is a page
//   fault with RSV set, and KVM's mark for device pages is one.
//
// The walker below has the interface of chapter 1's EPT walker, so the same MMU can run on either.

import { VmExit } from '../../01-hardware-background/faults.ts';
import type { EptContext } from '../../01-hardware-background/intercepts.ts';
import { EPT_ACCESS, EPT_QUALIFICATION, type EptAccess, type SecondStage } from '../../01-hardware-background/mmu/ept.ts';
import { ENTRY, FORMAT, NX_HIGH, PF, PHYSICAL_ADDRESS_BITS } from '../../01-hardware-background/mmu/paging.ts';
import { assert, type Gpa, type Hpa, PAGE_BYTES, type PhysicalMemory } from '../../01-hardware-background/physical-memory.ts';
import type { Trace } from '../../01-hardware-background/trace.ts';

const { mask: P } = ENTRY;
const { mask: E } = PF;
const HIGH_ADDRESS = 2 ** (PHYSICAL_ADDRESS_BITS - 32) - 1;
const { levels: LEVELS, reservedHigh: RESERVED_HIGH } = FORMAT.level4;

/** VMEXIT_NPF (AMD APM vol. 2, appendix C). */
export const EXIT_NPF = 0x400;
/** EXITINFO1 beyond an ordinary error code: which part of the guest's translation failed. */
export const NPF = { FINAL: 1n << 32n, TABLE: 1n << 33n } as const;

/** Walks nested page tables: 4 levels, with NX (the host's EFER.NXE is set). */
export class NptWalker implements SecondStage {
  readable = false;
  writable = false;
  executable = false;
  dirty = false;
  refusal: VmExit | null = null;
  /** log2 of the size of the page found. */
  shift = 12;
  readonly #memory: PhysicalMemory;
  readonly #trace: Trace | null;
  readonly #path = new Float64Array(LEVELS.length); // buffer offsets

  constructor(memory: PhysicalMemory, trace: Trace | null = null) {
    this.#memory = memory;
    this.#trace = trace;
  }

  translate(npt: EptContext, gpa: Gpa, access: EptAccess): Hpa {
    const hpa = this.find(npt, gpa, access);
    if (hpa < 0) throw this.refusal;
    return hpa;
  }

  // @clause x86.npt.walk
  find(npt: EptContext, gpa: Gpa, access: EptAccess): Hpa {
    const final = (access.origin & EPT_QUALIFICATION.mask.FINAL) !== 0;
    // @clause x86.npt.guest-tables-write
    const kind = final ? access.kind : access.kind | EPT_ACCESS.WRITE;
    const { view } = this.#memory;
    let table = npt.root;
    let rights: number = P.RW | P.US;
    let noExecute = false;
    for (const [depth, { level, shift, largePages, reservedPage, reservedTable }] of LEVELS.entries()) {
      const entry = table + 8 * (Math.floor(gpa / 2 ** shift) & 0x1ff);
      const at = this.#memory.holds(entry, 8) ? this.#memory.offset(entry, 8) : -1;
      const lo = at < 0 ? -1 : view.getInt32(at, true);
      const hi = at < 0 ? -1 : view.getInt32(at + 4, true);
      this.#trace?.emit({ kind: 'walk', stage: 2, level, entry, value: (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0) });
      if (!(lo & P.P)) return this.#refuse(gpa, kind, final, 0);
      const leaf = level === 1 || (largePages && (lo & P.PS) !== 0);
      // @clause x86.npt.reserved
      if ((lo & (leaf ? reservedPage : reservedTable)) !== 0 || (hi & RESERVED_HIGH) !== 0) return this.#refuse(gpa, kind, final, E.P | E.RSVD);
      rights &= lo;
      if (hi & NX_HIGH) noExecute = true;
      this.#path[depth] = at;
      const address = (hi & HIGH_ADDRESS) * 2 ** 32 + ((lo & 0xfffff000) >>> 0);
      if (!leaf) {
        table = address;
        continue;
      }
      // @clause x86.npt.user
      const writes = (kind & EPT_ACCESS.WRITE) !== 0;
      const fetches = (kind & EPT_ACCESS.FETCH) !== 0;
      if (!(rights & P.US) || (writes && !(rights & P.RW)) || (fetches && noExecute)) return this.#refuse(gpa, kind, final, E.P);
      this.#mark(depth, writes);
      this.readable = true;
      this.writable = (rights & P.RW) !== 0;
      this.executable = !noExecute;
      this.shift = shift;
      const size = 2 ** shift;
      return address - (address % size) + (gpa % size);
    }
    assert(false, 'the last level is a leaf');
  }

  // @clause x86.npt.accessed-dirty
  #mark(leaf: number, writes: boolean): void {
    const { view } = this.#memory;
    for (let depth = 0; depth <= leaf; depth++) {
      const at = this.#path[depth] as number;
      const before = view.getInt32(at, true);
      const after = before | P.A | (depth === leaf && writes ? P.D : 0);
      if (after !== before) view.setInt32(at, after, true);
      if (depth === leaf) this.dirty = (after & P.D) !== 0;
    }
  }

  // @clause x86.npt.exitinfo1
  #refuse(gpa: Gpa, kind: number, final: boolean, code: number): -1 {
    const low = code | E.U | (kind & EPT_ACCESS.WRITE ? E.W : 0) | (kind & EPT_ACCESS.FETCH ? E.ID : 0);
    this.refusal = new VmExit(EXIT_NPF, BigInt(low) | (final ? NPF.FINAL : NPF.TABLE), { guestPhysicalAddress: gpa });
    return -1;
  }
}

// ## Filling one

/** Rights of a nested mapping. */
interface NestedRights {
  readonly write: boolean;
  readonly execute: boolean;
}

/** Nested tables in the machine's memory, as a hypervisor writes them. `page` gives it zeroed pages. */
export class NestedTables {
  readonly root: Hpa;
  readonly #memory: PhysicalMemory;
  readonly #page: () => Hpa;

  constructor(memory: PhysicalMemory, page: () => Hpa) {
    this.#memory = memory;
    this.#page = page;
    this.root = page();
  }

  /** Maps one page of 4 KiB (level 1), 2 MiB (2) or 1 GiB (3). */
  map(gpa: Gpa, hpa: Hpa, { write, execute }: NestedRights, level: 1 | 2 | 3 = 1): void {
    const low = P.P | P.US | (write ? P.RW : 0) | (level > 1 ? P.PS : 0);
    this.poke(gpa, level, (hpa % 2 ** 32) + low, Math.floor(hpa / 2 ** 32) + (execute ? 0 : NX_HIGH));
  }

  /** Writes the two words of the entry at `level`, making the tables that lead there. */
  poke(gpa: Gpa, level: 1 | 2 | 3, low: number, high: number): void {
    const { view } = this.#memory;
    let table = this.root;
    for (const { level: at, shift } of LEVELS) {
      const entry = this.#memory.offset(table + 8 * (Math.floor(gpa / 2 ** shift) & 0x1ff), 8);
      if (at === level) {
        view.setUint32(entry, low, true);
        view.setUint32(entry + 4, high, true);
        return;
      }
      if (!(view.getUint32(entry, true) & P.P)) {
        const next = this.#page();
        view.setUint32(entry, (next % 2 ** 32) + (P.P | P.RW | P.US), true);
        view.setUint32(entry + 4, Math.floor(next / 2 ** 32), true);
      }
      table = (view.getUint32(entry + 4, true) & HIGH_ADDRESS) * 2 ** 32 + ((view.getUint32(entry, true) & -PAGE_BYTES) >>> 0);
    }
  }
}

// ## Side by side

/** The two second stages, point by point. */
export const EPT_AND_NPT: readonly { readonly what: string; readonly ept: string; readonly npt: string }[] = [
  { what: 'Format', ept: 'its own: three permission bits, a memory type', npt: "the host's own paging mode" },
  { what: 'Present', ept: 'any of read, write, execute', npt: 'bit 0' },
  { what: 'Read permission', ept: 'a bit; execute-only pages are possible', npt: 'every present page' },
  { what: 'Execute permission', ept: 'a bit that permits', npt: 'NX, a bit that forbids; needs EFER.NXE in the host' },
  { what: 'User bit', ept: 'none', npt: 'must be set: every nested access is a user access' },
  { what: 'Accessed and dirty', ept: 'optional, chosen in the EPT pointer', npt: 'always' },
  { what: "Access to the guest's tables", ept: 'a read; a write when accessed and dirty bits are on', npt: 'always a user write' },
  { what: 'Root', ept: 'EPT pointer, a VMCS field', npt: 'nCR3, a VMCB field' },
  { what: 'Guest CR3', ept: 'a guest physical address', npt: 'a guest physical address' },
  { what: "PAE's four pointers", ept: 'in the VMCS, loaded at entry', npt: 'read from memory during the walk' },
  { what: 'Failure', ept: 'EPT violation (48), qualification', npt: 'VMEXIT_NPF (0x400), EXITINFO1 is a page-fault error code' },
  { what: 'Where it failed', ept: 'qualification bits 7 and 8', npt: 'EXITINFO1 bit 32 (the page) or 33 (a table)' },
  { what: 'Linear address', ept: 'reported when there is one', npt: 'not reported' },
  { what: 'Malformed entry', ept: 'an exit of its own: misconfiguration (49)', npt: 'the same exit, with RSV in EXITINFO1' },
  { what: 'Memory type', ept: 'in the entry, combined with PAT unless told to ignore it', npt: "PAT bits, combined by the host's PAT" },
  { what: 'Tag', ept: 'EP4TA and VPID', npt: 'ASID' },
  { what: 'Flush', ept: 'INVEPT, INVVPID', npt: 'TLB_CONTROL in the VMCB, INVLPGA' },
];

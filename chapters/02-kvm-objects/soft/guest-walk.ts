// # Walking the guest's own tables
//
// With EPT the processor translates guest linear addresses without asking anyone, and KVM need not know how the guest's page tables look. Except in
// two places: the VMM may ask (`KVM_TRANSLATE`), and the emulator has to do in software what the instruction would have done. So kvm.ko carries a
// page walker for every paging mode; in `paging_tmpl.h` it is one text, compiled once for each.
//
// Ours is one loop over levels. What differs between the modes is how many levels there are, how wide an entry is, and which bits are reserved. A
// walk is bounded by the number of levels, whatever the guest wrote into its tables.

import { type Gpa, lowHalf } from '../../01-hardware-background/physical-memory.ts';
import { CR0, CR4, EFER } from '../../01-hardware-background/state.ts';
import type { SoftVcpu } from './vcpu.ts';
import type { SoftVm } from './vm.ts';

/** The registers that decide how a linear address is translated. */
export interface Paging {
  readonly cr0: bigint;
  readonly cr3: bigint;
  readonly cr4: bigint;
  readonly efer: bigint;
  /** PAE's four registers, or null when they are to be read from memory at CR3. */
  readonly pdptrs: readonly bigint[] | null;
}

/** One access: what it does, and as whom. `explicitUser` is CPL 3; `acSet` is RFLAGS.AC, which suspends SMAP. */
export interface Access {
  readonly write: boolean;
  readonly fetch: boolean;
  readonly user: boolean;
  readonly acSet: boolean;
}

type Walked = { readonly gpa: Gpa; readonly writable: boolean; readonly user: boolean } | { readonly errorCode: number };

/** Page-fault error code bits. */
const PF = { PRESENT: 1, WRITE: 2, USER: 4, RESERVED: 8, FETCH: 16 } as const;

const P = 1n;
const RW = 2n;
const US = 4n;
const A = 1n << 5n;
const D = 1n << 6n;
const PS = 1n << 7n;
const NX = 1n << 63n;
const has = (value: bigint, mask: number): boolean => (lowHalf(value) & mask) !== 0;

/** How the current mode's tables look. */
interface Format {
  readonly levels: number;
  readonly indexBits: bigint;
  readonly entryBytes: 4 | 8;
}
const FORMAT = {
  twoLevel: { levels: 2, indexBits: 10n, entryBytes: 4 },
  pae: { levels: 3, indexBits: 9n, entryBytes: 8 },
  fourLevel: { levels: 4, indexBits: 9n, entryBytes: 8 },
  fiveLevel: { levels: 5, indexBits: 9n, entryBytes: 8 },
} as const satisfies Record<string, Format>;

/** The paging registers of a vCPU whose VMCS is current. */
export function pagingOf(vcpu: SoftVcpu): Paging {
  const cr4 = vcpu.cr4;
  const pae = has(cr4, CR4.PAE) && !has(vcpu.efer, EFER.LMA);
  const pdptrs = pae ? vcpu.vm.mmu.pdptrs(vcpu) : null;
  return { cr0: vcpu.cr0, cr3: vcpu.cr3, cr4, efer: vcpu.efer, pdptrs };
}

/**
 * Translates a linear address by the guest's tables. With `access` null nothing is checked but presence, and no accessed or dirty bit is set (KVM_TRANSLATE).
 * Linux: `walk_addr_generic()`.
 */
export function walkGuest(vm: SoftVm, paging: Paging, linear: bigint, access: Access | null): Walked {
  if (!has(paging.cr0, CR0.PG)) return { gpa: lowHalf(linear), writable: true, user: true };
  const long = has(paging.efer, EFER.LMA);
  const format: Format = long
    ? FORMAT[has(paging.cr4, CR4.LA57) ? 'fiveLevel' : 'fourLevel']
    : has(paging.cr4, CR4.PAE)
      ? FORMAT.pae
      : FORMAT.twoLevel;
  const nxe = has(paging.efer, EFER.NXE);
  const wide = format.entryBytes === 8;
  const tooHigh = wide ? (((1n << 52n) - 1n) >> BigInt(vm.hardware.cpu.physicalAddressBits)) << BigInt(vm.hardware.cpu.physicalAddressBits) : 0n;
  const code = (access?.write ? PF.WRITE : 0) | (access?.user ? PF.USER : 0) | (access?.fetch && (nxe || has(paging.cr4, CR4.SMEP)) ? PF.FETCH : 0);

  let table = paging.cr3 & (wide && !long ? 0xffff_ffe0n : wide ? 0x000f_ffff_ffff_f000n : 0xffff_f000n);
  let writable = true;
  let user = true;
  let execute = true;
  const visited: { gpa: Gpa; entry: bigint }[] = [];
  for (let level = format.levels; ; level--) {
    const shift = 12n + format.indexBits * BigInt(level - 1);
    const index = Number((linear >> shift) & ((1n << format.indexBits) - 1n));
    const topOfPae = format === FORMAT.pae && level === 3;
    const at = Number(table) + (topOfPae ? index & 3 : index) * format.entryBytes;
    const entry = topOfPae && paging.pdptrs ? (paging.pdptrs[index & 3] as bigint) : vm.readEntry(at, format.entryBytes);
    // A table that is no memory has no entries.
    // @clause machine.hostile.page-tables
    if (entry === null || !(entry & P)) return { errorCode: code };
    const leaf = level === 1 || (level <= 3 && !topOfPae && (entry & PS) !== 0n && (format !== FORMAT.twoLevel || has(paging.cr4, CR4.PSE)));
    const pse = leaf && level > 1;
    const reserved = reservedBits(format, level, pse, nxe) | tooHigh;
    if (!topOfPae && entry & reserved) return { errorCode: code | PF.PRESENT | PF.RESERVED };
    if (!topOfPae) {
      writable &&= (entry & RW) !== 0n;
      user &&= (entry & US) !== 0n;
      execute &&= !(wide && entry & NX);
      visited.push({ gpa: at, entry });
    }
    if (!leaf) {
      table = entry & (wide ? 0x000f_ffff_ffff_f000n : 0xffff_f000n);
      continue;
    }
    if (access) {
      if (!permitted(paging, access, { writable, user, execute })) return { errorCode: code | PF.PRESENT };
      visited.forEach(({ gpa, entry: old }, n) => {
        const bits = n === visited.length - 1 && access.write ? A | D : A;
        if ((old & bits) !== bits) setBits(vm, gpa, format.entryBytes, bits);
      });
    }
    const offset = linear & ((1n << shift) - 1n);
    let frame = entry & (wide ? 0x000f_ffff_ffff_f000n : 0xffff_f000n) & ~((1n << shift) - 1n);
    if (pse && !wide) frame |= ((entry >> 13n) & 0xffn) << 32n; // PSE-36: eight more address bits
    return { gpa: Number(frame | offset), writable, user };
  }
}

function reservedBits(format: Format, level: number, pse: boolean, nxe: boolean): bigint {
  if (format === FORMAT.twoLevel) return pse ? 1n << 21n : 0n;
  const high = (nxe ? 0n : NX) | (format === FORMAT.pae ? 0x7ffn << 52n : 0n);
  if (level >= 4) return high | PS;
  if (!pse) return high;
  return high | (level === 3 ? 0x3fff_e000n : 0x1f_e000n);
}

function permitted({ cr0, cr4 }: Paging, access: Access, page: { writable: boolean; user: boolean; execute: boolean }): boolean {
  if (access.fetch) {
    if (!page.execute) return false;
    return access.user ? page.user : !(page.user && has(cr4, CR4.SMEP));
  }
  if (access.user) return page.user && (!access.write || page.writable);
  if (page.user && has(cr4, CR4.SMAP) && !access.acSet) return false;
  return !access.write || page.writable || !has(cr0, CR0.WP);
}

/** Sets accessed and dirty bits in guest memory, as the processor would. */
function setBits(vm: SoftVm, gpa: Gpa, bytes: 4 | 8, bits: bigint): void {
  const hpa = vm.hpaOf(gpa, true);
  if (hpa < 0) return;
  const { view } = vm.hardware.memory;
  const at = vm.hardware.memory.offset(hpa, bytes);
  view.setUint32(at, view.getUint32(at, true) | Number(bits), true);
  vm.wroteGuest(gpa, hpa, bytes);
}

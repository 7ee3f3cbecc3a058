// # Walking the guest's own tables
//
// With EPT the processor translates guest linear addresses without asking anyone, and KVM need not know how the guest's page tables look. Except in
// two places: the VMM may ask (`KVM_TRANSLATE`), and the emulator has to do in software what the instruction would have done. So kvm.ko carries a
// page walker for every paging mode; in `paging_tmpl.h` it is one text, compiled once for each.
//
// Ours is one loop over levels. What differs between the modes is how many levels there are, how wide an entry is, and which bits are reserved. A
// walk is bounded by the number of levels, whatever the guest wrote into its tables.

import { type Gpa, highHalf, lowHalf } from '../../01-hardware-background/physical-memory.ts';
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

// An entry is looked at as two halves, which are numbers: an emulated instruction needs two walks of up to five levels, and arithmetic on 64-bit integers
// would be most of what it costs.

const P = 1;
const RW = 2;
const US = 4;
const A = 1 << 5;
const D = 1 << 6;
const PS = 1 << 7;
const NX_HIGH = 0x8000_0000; // bit 63
const FRAME_HIGH = 0xf_ffff; // bits 51:32
const has = (value: bigint, mask: number): boolean => (lowHalf(value) & mask) !== 0;

/** How the current mode's tables look. */
interface Format {
  readonly levels: number;
  readonly indexBits: number;
  readonly entryBytes: 4 | 8;
}
const FORMAT = {
  twoLevel: { levels: 2, indexBits: 10, entryBytes: 4 },
  pae: { levels: 3, indexBits: 9, entryBytes: 8 },
  fourLevel: { levels: 4, indexBits: 9, entryBytes: 8 },
  fiveLevel: { levels: 5, indexBits: 9, entryBytes: 8 },
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
  const tooHigh = wide ? (FRAME_HIGH >>> (vm.hardware.cpu.physicalAddressBits - 32)) << (vm.hardware.cpu.physicalAddressBits - 32) : 0;
  const code = (access?.write ? PF.WRITE : 0) | (access?.user ? PF.USER : 0) | (access?.fetch && (nxe || has(paging.cr4, CR4.SMEP)) ? PF.FETCH : 0);
  const low = lowHalf(linear);
  const high = highHalf(linear);
  const { memory } = vm.hardware;

  let table = frameOf(lowHalf(paging.cr3), wide && long ? highHalf(paging.cr3) & FRAME_HIGH : 0, wide && !long ? 5 : 12);
  let writable = true;
  let user = true;
  let execute = true;
  const visited: { gpa: Gpa; flags: number }[] = [];
  for (let level = format.levels; ; level--) {
    const shift = 12 + format.indexBits * (level - 1);
    const topOfPae = format === FORMAT.pae && level === 3;
    const index = bitsOf(low, high, shift) & (topOfPae ? 3 : (1 << format.indexBits) - 1);
    const at = table + index * format.entryBytes;
    let entry: number; // its low half
    let entryHigh = 0;
    if (topOfPae && paging.pdptrs) {
      entry = lowHalf(paging.pdptrs[index] as bigint);
      entryHigh = highHalf(paging.pdptrs[index] as bigint);
    } else {
      const hpa = vm.hpaOf(at, false);
      // A table that is no memory has no entries.
      // @clause machine.hostile.page-tables
      if (hpa < 0) return { errorCode: code };
      const place = memory.offset(hpa, format.entryBytes);
      entry = memory.view.getUint32(place, true);
      if (wide) entryHigh = memory.view.getUint32(place + 4, true);
    }
    if (!(entry & P)) return { errorCode: code };
    const leaf = level === 1 || (level <= 3 && !topOfPae && (entry & PS) !== 0 && (format !== FORMAT.twoLevel || has(paging.cr4, CR4.PSE)));
    const pse = leaf && level > 1;
    if (!topOfPae) {
      const reserved = (entry & reservedLow(format, level, pse)) | (entryHigh & (tooHigh | reservedHigh(format, nxe)));
      if (reserved !== 0) return { errorCode: code | PF.PRESENT | PF.RESERVED };
      writable &&= (entry & RW) !== 0;
      user &&= (entry & US) !== 0;
      execute &&= !(wide && entryHigh & NX_HIGH);
      visited.push({ gpa: at, flags: entry });
    }
    if (!leaf) {
      table = frameOf(entry, entryHigh & FRAME_HIGH, 12);
      continue;
    }
    if (access) {
      if (!permitted(paging, access, { writable, user, execute })) return { errorCode: code | PF.PRESENT };
      for (let n = 0; n < visited.length; n++) {
        const { gpa, flags } = visited[n] as { gpa: Gpa; flags: number };
        const bits = n === visited.length - 1 && access.write ? A | D : A;
        if ((flags & bits) !== bits) setBits(vm, gpa, format.entryBytes, bits);
      }
    }
    // PSE-36: eight more address bits, in bits 20:13.
    const frame = frameOf(entry, pse && !wide ? (entry >>> 13) & 0xff : entryHigh & FRAME_HIGH, shift);
    return { gpa: frame + (low & (2 ** shift - 1)), writable, user };
  }
}

/** The address in an entry, from bit `shift` on. */
const frameOf = (entry: number, high: number, shift: number): Gpa => high * 2 ** 32 + (((entry >>> shift) << shift) >>> 0);

/** What is at a bit of a linear address, as far as 32 bits go. */
const bitsOf = (low: number, high: number, shift: number): number => (shift < 32 ? (low >>> shift) | (high << (32 - shift)) : high >>> (shift - 32));

function reservedLow(format: Format, level: number, pse: boolean): number {
  if (format === FORMAT.twoLevel) return pse ? 1 << 21 : 0;
  if (level >= 4) return PS;
  if (!pse) return 0;
  return level === 3 ? 0x3fff_e000 : 0x1f_e000;
}
const reservedHigh = (format: Format, nxe: boolean): number =>
  format === FORMAT.twoLevel ? 0 : (nxe ? 0 : NX_HIGH) | (format === FORMAT.pae ? 0x7ff0_0000 : 0);

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
function setBits(vm: SoftVm, gpa: Gpa, bytes: 4 | 8, bits: number): void {
  const hpa = vm.hpaOf(gpa, true);
  if (hpa < 0) return;
  const { view } = vm.hardware.memory;
  const at = vm.hardware.memory.offset(hpa, bytes);
  view.setUint32(at, view.getUint32(at, true) | bits, true);
  vm.wroteGuest(gpa, hpa, bytes);
}

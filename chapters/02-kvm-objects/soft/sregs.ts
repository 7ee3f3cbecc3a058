// # Special registers
//
// `KVM_SET_SREGS` is how a VMM puts a processor into any mode at all: it can start a guest in 64-bit code with paging on, and skip the whole ladder
// that a real processor climbs after reset. A microVM loader does just that. The price is that the kernel has to say no to states that no ladder
// leads to, or VM entry would say it later and less clearly.

import { AR, CR0, CR4, EFER, SEG } from '../../01-hardware-background/state.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { MP_STATE } from '../abi/events.ts';
import { KvmDtable, KvmSegment, KvmSregs, KvmSregs2, U64 } from '../abi/registers.ts';
import { ERRNO } from '../errno.ts';
import { isLongMode, isPaging, loadPdptrs, validCr0, validCr3, validCr4 } from './control-registers.ts';
import { MSR, setMsr } from './msrs.ts';
import { SEGMENT_FIELDS, type SegmentFields, type SoftVcpu } from './vcpu.ts';

const NAMES = { cs: SEG.CS, ds: SEG.DS, es: SEG.ES, fs: SEG.FS, gs: SEG.GS, ss: SEG.SS, tr: SEG.TR, ldt: SEG.LDTR } as const;
const names = Object.keys(NAMES) as (keyof typeof NAMES)[];
const has = (value: bigint, mask: number): boolean => (value & BigInt(mask)) !== 0n;

// ## Segments: a byte for each bit
//
// The VMCS keeps a segment's attributes as the descriptor has them, packed; the ABI gives every attribute a byte. "Unusable" and "not present" are
// the same to a VMCS, and a VMM may say either (`vmx_segment_access_rights()`).

function readSegment(vcpu: SoftVcpu, seg: number, view: DataView, at: number): void {
  const { hardware } = vcpu.vm;
  const fields = SEGMENT_FIELDS[seg] as SegmentFields;
  const rights = hardware.read32(fields.rights);
  const unusable = rights & AR.UNUSABLE ? 1 : 0;
  KvmSegment.store(view, at, {
    base: hardware.read(fields.base),
    limit: hardware.read32(fields.limit),
    selector: hardware.read32(fields.selector),
    type: rights & AR.TYPE,
    present: 1 - unusable,
    dpl: (rights & AR.DPL) >> AR.DPL_SHIFT,
    db: rights & AR.DB ? 1 : 0,
    s: rights & AR.S ? 1 : 0,
    l: rights & AR.L ? 1 : 0,
    g: rights & AR.G ? 1 : 0,
    avl: rights & AR.AVL ? 1 : 0,
    unusable,
  });
}

function writeSegment(vcpu: SoftVcpu, seg: number, view: DataView, at: number): void {
  const s = KvmSegment.load(view, at);
  let rights = s.type & AR.TYPE;
  if (s.unusable || !s.present) rights = AR.UNUSABLE;
  else {
    rights |= (s.s & 1 ? AR.S : 0) | ((s.dpl & 3) << AR.DPL_SHIFT) | AR.P | (s.avl & 1 ? AR.AVL : 0) | (s.l & 1 ? AR.L : 0);
    rights |= (s.db & 1 ? AR.DB : 0) | (s.g & 1 ? AR.G : 0);
    // Old VMMs forget the accessed bit; VM entry does not forgive that in a segment that it calls usable.
    if (seg !== SEG.LDTR) rights |= AR.ACCESSED;
  }
  vcpu.setSegment(seg, s.selector, s.base, s.limit, rights);
}

// ## Reading

type Layout = typeof KvmSregs | typeof KvmSregs2;

function readCommon(vcpu: SoftVcpu, layout: Layout, view: DataView): void {
  const { hardware } = vcpu.vm;
  for (const name of names) readSegment(vcpu, NAMES[name], view, layout.fields[name].offset);
  KvmDtable.store(view, layout.fields.gdt.offset, { base: hardware.read(FIELD.GUEST_GDTR_BASE), limit: hardware.read32(FIELD.GUEST_GDTR_LIMIT) });
  KvmDtable.store(view, layout.fields.idt.offset, { base: hardware.read(FIELD.GUEST_IDTR_BASE), limit: hardware.read32(FIELD.GUEST_IDTR_LIMIT) });
  const values = { cr0: vcpu.cr0, cr2: vcpu.cr2, cr3: vcpu.cr3, cr4: vcpu.cr4, cr8: vcpu.cr8, efer: vcpu.efer };
  KvmSregs.store(view, 0, { ...values, apic_base: vcpu.apicBase });
}

/** KVM_GET_SREGS. */
export function getSregs(vcpu: SoftVcpu, bytes: Uint8Array, view: DataView): number {
  bytes.fill(0, 0, KvmSregs.bytes);
  readCommon(vcpu, KvmSregs, view);
  const { injected, vector, soft } = vcpu.events.interrupt;
  // @clause kvm.sregs.interrupt-bitmap
  if (injected && !soft) {
    const word = KvmSregs.fields.interrupt_bitmap.at(vector >> 6);
    U64.store(view, word, { value: 1n << BigInt(vector & 63) });
  }
  return 0;
}

/** KVM_GET_SREGS2. */
export function getSregs2(vcpu: SoftVcpu, bytes: Uint8Array, view: DataView): number {
  bytes.fill(0, 0, KvmSregs2.bytes);
  readCommon(vcpu, KvmSregs2, view);
  if (paePaging(vcpu)) {
    vcpu.vm.mmu.pdptrs(vcpu).forEach((value, n) => {
      U64.store(view, KvmSregs2.fields.pdptrs.at(n), { value });
    });
    KvmSregs2.store(view, 0, { flags: PDPTRS_VALID });
  }
  return 0;
}

const PDPTRS_VALID = 1n;
const paePaging = (vcpu: SoftVcpu): boolean => isPaging(vcpu) && has(vcpu.cr4, CR4.PAE) && !isLongMode(vcpu);

// ## Writing

/** Everything but interrupts and PDPTRs; -EINVAL with nothing changed when the state is impossible. Linux: `__set_sregs_common()`. */
function writeCommon(vcpu: SoftVcpu, layout: Layout, view: DataView): number {
  const { hardware } = vcpu.vm;
  const { cr0, cr2, cr3, cr4, cr8, efer, apic_base } = KvmSregs.load(view);
  const cs = KvmSegment.load(view, layout.fields.cs.offset);
  // @clause kvm.sregs.consistent
  if (has(efer, EFER.LME) && has(cr0, CR0.PG)) {
    if (!has(cr4, CR4.PAE) || !has(efer, EFER.LMA) || !validCr3(vcpu, cr3)) return -ERRNO.EINVAL;
  } else if (has(efer, EFER.LMA) || cs.l) return -ERRNO.EINVAL;
  if (!validCr4(vcpu, cr4) || !validCr0(cr0)) return -ERRNO.EINVAL;
  if (!setMsr(vcpu, MSR.APIC_BASE, apic_base, true)) return -ERRNO.EINVAL;

  const gdt = KvmDtable.load(view, layout.fields.gdt.offset);
  const idt = KvmDtable.load(view, layout.fields.idt.offset);
  hardware.write(FIELD.GUEST_GDTR_BASE, gdt.base);
  hardware.write32(FIELD.GUEST_GDTR_LIMIT, gdt.limit);
  hardware.write(FIELD.GUEST_IDTR_BASE, idt.base);
  hardware.write32(FIELD.GUEST_IDTR_LIMIT, idt.limit);
  vcpu.cr2 = cr2;
  vcpu.cr8 = cr8 & 15n;
  vcpu.cr3 = cr3;
  vcpu.setEfer(efer);
  vcpu.writeCr0(cr0);
  vcpu.writeCr4(cr4);
  for (const name of names) writeSegment(vcpu, NAMES[name], view, layout.fields[name].offset);
  vcpu.vm.mmu.flushGuest(vcpu);
  // A VMM from before KVM_SET_MP_STATE resets a halted processor by its registers alone.
  const atReset = vcpu.rip === 0xfff0n && cs.selector === 0xf000 && cs.base === 0xffff_0000n && !has(cr0, CR0.PE);
  if (atReset && vcpu.id === vcpu.vm.bootVcpuId) vcpu.mpState = MP_STATE.KVM_MP_STATE_RUNNABLE;
  return 0;
}

// @clause kvm.sregs.round-trip
/** KVM_SET_SREGS. */
export function setSregs(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const result = writeCommon(vcpu, KvmSregs, view);
  if (result < 0) return result;
  if (paePaging(vcpu)) loadPdptrs(vcpu, vcpu.cr3);
  for (let vector = 0; vector < 256; vector++) {
    const { value } = U64.load(view, KvmSregs.fields.interrupt_bitmap.at(vector >> 6));
    if (!((value >> BigInt(vector & 63)) & 1n)) continue;
    vcpu.events.interrupt = { injected: true, vector, soft: false }; // the lowest one; more than one is meaningless
    break;
  }
  return 0;
}

/** KVM_SET_SREGS2. */
export function setSregs2(vcpu: SoftVcpu, _bytes: Uint8Array, view: DataView): number {
  const { flags } = KvmSregs2.load(view);
  if (flags & ~PDPTRS_VALID) return -ERRNO.EINVAL;
  const { cr0, cr4, efer } = KvmSregs2.load(view);
  const pae = has(cr0, CR0.PG) && has(cr4, CR4.PAE) && !has(efer, EFER.LME);
  if (flags & PDPTRS_VALID && !pae) return -ERRNO.EINVAL;
  const result = writeCommon(vcpu, KvmSregs2, view);
  if (result < 0) return result;
  if (flags & PDPTRS_VALID) {
    const entries = [0, 1, 2, 3].map((n) => U64.load(view, KvmSregs2.fields.pdptrs.at(n)).value);
    vcpu.vm.mmu.setPdptrs(vcpu, entries);
  } else if (paePaging(vcpu)) loadPdptrs(vcpu, vcpu.cr3);
  return 0;
}

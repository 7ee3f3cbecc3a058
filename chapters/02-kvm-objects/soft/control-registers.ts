// # Which control registers are possible
//
// A VMM may write CR0, CR3, CR4 and EFER directly; a guest may write them by instruction. In both cases a combination that no processor could hold
// must be refused before it reaches the VMCS: VM entry would fail, and what a guest can cause must never look like a bug of the kernel. The errors
// differ: the guest gets #GP, the VMM gets EINVAL, and KVM uses the same predicates for both.

import { CR0, CR4, EFER, OFFSET } from '../../01-hardware-background/state.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import type { SoftVcpu } from './vcpu.ts';

const has = (value: bigint, mask: number): boolean => (value & BigInt(mask)) !== 0n;

/** Bits of EFER that this processor implements. */
const EFER_VALID = BigInt(EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE);

/** CR4 bits that need no CPUID feature beyond what every 64-bit processor has. */
const CR4_ALWAYS = [CR4.VME, CR4.PVI, CR4.TSD, CR4.DE, CR4.PSE, CR4.PAE, CR4.MCE, CR4.PGE, CR4.PCE, CR4.OSFXSR, CR4.OSXMMEXCPT];
/** CR4 bits that the guest may set only when its CPUID table has the feature: register 1 is EBX, 2 ECX, 3 EDX (`__cr4_reserved_bits()`). */
const CR4_FEATURES: readonly { bit: number; leaf: number; register: 'ebx' | 'ecx'; feature: number }[] = [
  { bit: CR4.OSXSAVE, leaf: 1, register: 'ecx', feature: 26 },
  { bit: CR4.PCIDE, leaf: 1, register: 'ecx', feature: 17 },
  { bit: CR4.FSGSBASE, leaf: 7, register: 'ebx', feature: 0 },
  { bit: CR4.SMEP, leaf: 7, register: 'ebx', feature: 7 },
  { bit: CR4.SMAP, leaf: 7, register: 'ebx', feature: 20 },
  { bit: CR4.UMIP, leaf: 7, register: 'ecx', feature: 2 },
  { bit: CR4.LA57, leaf: 7, register: 'ecx', feature: 16 },
];

/** Linux: `kvm_is_valid_cr0()`. */
export function validCr0(value: bigint): boolean {
  if (value >> 32n !== 0n) return false;
  if (has(value, CR0.NW) && !has(value, CR0.CD)) return false;
  return !(has(value, CR0.PG) && !has(value, CR0.PE));
}

/** Linux: `kvm_is_valid_cr4()`. */
export function validCr4(vcpu: SoftVcpu, value: bigint): boolean {
  let allowed = CR4_ALWAYS.reduce((all, mask) => all | mask, 0);
  for (const { bit, leaf, register, feature } of CR4_FEATURES) {
    if (((vcpu.cpuid.find(leaf, 0)?.[register] ?? 0) >>> feature) & 1) allowed |= bit;
  }
  return (value & ~BigInt(allowed)) === 0n;
}

/** CR3 names a page that the processor could address. Linux: `kvm_vcpu_is_legal_cr3()`. */
export const validCr3 = (vcpu: SoftVcpu, value: bigint): boolean => value >> BigInt(vcpu.vm.hardware.cpu.physicalAddressBits) === 0n;

/** Linux: `kvm_valid_efer()`. */
export function validEfer(value: bigint): boolean {
  return (value & ~EFER_VALID) === 0n;
}

/** True for a 64-bit address whose upper bits repeat the highest one that the processor uses. */
export const canonical = (address: bigint, { vm }: SoftVcpu): boolean =>
  BigInt.asUintN(64, BigInt.asIntN(vm.hardware.cpu.linearAddressBits, address)) === address;

export const isPaging = (vcpu: SoftVcpu): boolean => has(vcpu.cr0, CR0.PG);
export const isLongMode = (vcpu: SoftVcpu): boolean => has(vcpu.efer, EFER.LMA);

// ## PAE's four registers
//
// With PAE paging outside long mode, MOV to CR3 loads four entries from memory into the processor and faults if one is malformed. When the move
// exits, the kernel must do the same, and hand the four over in the VMCS.

const PDPTE_RESERVED = 0x1e6n; // bits 1, 2 and 5 to 8
const PRESENT = 1n;

/** Reads the four page-directory pointers at `cr3`; false when one is malformed or not in RAM. Linux: `load_pdptrs()`. */
export function loadPdptrs(vcpu: SoftVcpu, cr3: bigint): boolean {
  const { vm } = vcpu;
  const base = Number(cr3 & 0xffff_ffe0n);
  const tooHigh = ~((1n << BigInt(vm.hardware.cpu.physicalAddressBits)) - 1n);
  const entries: bigint[] = [];
  for (let n = 0; n < 4; n++) {
    const entry = vm.readEntry(base + 8 * n, 8);
    if (entry === null) return false;
    if (entry & PRESENT && entry & (PDPTE_RESERVED | tooHigh)) return false;
    entries.push(entry);
  }
  vm.mmu.setPdptrs(vcpu, entries);
  return true;
}

// ## What a guest may do
//
// These are the checks of MOV to CR0 and MOV to CR4 in the architecture manual; a false result means #GP.

const CR0_PDPTR_BITS = BigInt(CR0.CD | CR0.NW) | BigInt(CR0.PG);
const CR4_PDPTR_BITS = BigInt(CR4.PGE | CR4.PSE | CR4.PAE | CR4.SMEP);
const CR0_DEFINED = BigInt(CR0.PE | CR0.MP | CR0.EM | CR0.TS | CR0.ET | CR0.NE | CR0.WP | CR0.AM | CR0.NW | CR0.CD) | BigInt(CR0.PG);
/** CS in a 64-bit guest with CS.L set. */
const CS_L = 1 << 13;

/** Linux: `kvm_set_cr0()`. */
export function setCr0(vcpu: SoftVcpu, wanted: bigint): boolean {
  const { hardware } = vcpu.vm;
  const old = vcpu.cr0;
  const cr4 = vcpu.cr4;
  const value = (wanted | BigInt(CR0.ET)) & (CR0_DEFINED | ~0xffff_ffffn);
  if (!validCr0(value)) return false;
  const codeIsLong = (hardware.read32(FIELD.GUEST_CS_AR_BYTES) & CS_L) !== 0;
  if (has(value, CR0.PG) && !has(old, CR0.PG) && has(vcpu.efer, EFER.LME)) {
    if (!has(cr4, CR4.PAE) || codeIsLong) return false;
  }
  if (has(value, CR0.PG) && !has(vcpu.efer, EFER.LME) && has(cr4, CR4.PAE) && (value ^ old) & CR0_PDPTR_BITS) {
    if (!loadPdptrs(vcpu, vcpu.cr3)) return false;
  }
  if (!has(value, CR0.PG) && ((isLongMode(vcpu) && codeIsLong) || has(cr4, CR4.PCIDE))) return false;
  vcpu.writeCr0(value);
  if ((value ^ old) & BigInt(CR0.PG)) vcpu.vm.mmu.flushGuest(vcpu);
  return true;
}

/** Linux: `kvm_set_cr3()`. */
export function setCr3(vcpu: SoftVcpu, wanted: bigint): boolean {
  const keep = has(vcpu.cr4, CR4.PCIDE) && wanted >> 63n === 1n;
  const value = keep ? wanted & ~(1n << 63n) : wanted;
  if (!validCr3(vcpu, value)) return false;
  if (isPaging(vcpu) && has(vcpu.cr4, CR4.PAE) && !isLongMode(vcpu) && !loadPdptrs(vcpu, value)) return false;
  vcpu.cr3 = value;
  vcpu.vm.mmu.newCr3(vcpu, keep);
  return true;
}

/** Linux: `kvm_set_cr4()`. */
export function setCr4(vcpu: SoftVcpu, value: bigint): boolean {
  const old = vcpu.cr4;
  if (!validCr4(vcpu, value)) return false;
  if (isLongMode(vcpu)) {
    if (!has(value, CR4.PAE) || has(value ^ old, CR4.LA57)) return false;
  } else if (isPaging(vcpu) && has(value, CR4.PAE) && (value ^ old) & CR4_PDPTR_BITS && !loadPdptrs(vcpu, vcpu.cr3)) {
    return false;
  }
  if (has(value, CR4.PCIDE) && !has(old, CR4.PCIDE) && (!isLongMode(vcpu) || (vcpu.cr3 & 0xfffn) !== 0n)) return false;
  vcpu.writeCr4(value);
  if ((value ^ old) & (CR4_PDPTR_BITS | BigInt(CR4.PCIDE | CR4.SMAP))) vcpu.vm.mmu.flushGuest(vcpu);
  return true;
}

/** XSETBV of register 0: x87 always, AVX only with SSE, nothing that CPUID leaf 0xD does not list. Linux: `__kvm_set_xcr()`. */
export function setXcr0(vcpu: SoftVcpu, value: bigint): boolean {
  const supported = BigInt((vcpu.cpuid.find(0xd, 0)?.eax ?? 0) | 1);
  if ((value & 1n) === 0n || (value & 4n && !(value & 2n)) || (value & ~supported) !== 0n) return false;
  vcpu.vm.hardware.cpu.state.set64(OFFSET.XCR0, value);
  return true;
}

// # Model-specific registers
//
// An MSR is an index, a value and a rule about which values are legal. Where the value lives is a different question for each: a field of the VMCS,
// a register of the processor that is swapped by hand, a variable of the kernel's. RDMSR and WRMSR by the guest, and KVM_GET_MSRS and KVM_SET_MSRS
// by the VMM, meet in the same two functions. The difference is who asks: a guest's illegal value is #GP, a VMM's ends the list, and the request
// answers how many came before it.
//
// A VMM restores a machine by writing all of them, in the order that `KVM_GET_MSR_INDEX_LIST` gave. So anything a guest can change must be in that
// list, or migration silently loses it.

import { PHYSICAL_ADDRESS_BITS } from '../../01-hardware-background/mmu/paging.ts';
import { EFER, OFFSET } from '../../01-hardware-background/state.ts';
import { ARCH_CAPABILITIES } from '../../01-hardware-background/system/msrs.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { KvmMsrEntry, KvmMsrs } from '../abi/registers.ts';
import { ERRNO } from '../errno.ts';
import { canonical, isPaging, validEfer } from './control-registers.ts';
import type { SoftVcpu } from './vcpu.ts';

// biome-ignore format: table
export const MSR = {
  TSC: 0x10, APIC_BASE: 0x1b, FEATURE_CONTROL: 0x3a, TSC_ADJUST: 0x3b, UCODE_REV: 0x8b, MTRR_CAP: 0xfe, ARCH_CAPABILITIES: 0x10a, SYSENTER_CS: 0x174, SYSENTER_ESP: 0x175,
  SYSENTER_EIP: 0x176, MCG_CAP: 0x179, MCG_STATUS: 0x17a, MISC_ENABLE: 0x1a0, DEBUGCTL: 0x1d9, MTRR_PHYS_BASE0: 0x200, PAT: 0x277, MTRR_DEF_TYPE: 0x2ff,
  EFER: 0xc0000080, STAR: 0xc0000081, LSTAR: 0xc0000082, CSTAR: 0xc0000083, SFMASK: 0xc0000084, FS_BASE: 0xc0000100, GS_BASE: 0xc0000101,
  KERNEL_GS_BASE: 0xc0000102, TSC_AUX: 0xc0000103,
} as const;

export interface MsrRegister {
  /** Null: there is no such register now. */
  get(vcpu: SoftVcpu): bigint | null;
  /** False: not a legal value. `host`: written by the VMM. */
  set(vcpu: SoftVcpu, value: bigint, host: boolean): boolean;
}

type Legal = (value: bigint, vcpu: SoftVcpu) => boolean;
const always: Legal = () => true;

const inVmcs = (field: number, legal: Legal = always): MsrRegister => ({
  get: (vcpu) => vcpu.vm.hardware.read(field),
  set(vcpu, value) {
    if (!legal(value, vcpu)) return false;
    vcpu.vm.hardware.write(field, value);
    return true;
  },
});
const inProcessor = (offset: number, legal: Legal = always): MsrRegister => ({
  get: (vcpu) => vcpu.vm.hardware.cpu.state.get64(offset),
  set(vcpu, value) {
    if (!legal(value, vcpu)) return false;
    vcpu.vm.hardware.cpu.state.set64(offset, value);
    return true;
  },
});
/** A variable of the kernel's; a guest may write only what `legal` accepts, a VMM likewise. */
const inKernel = (index: number, initial: bigint, legal: Legal = always): MsrRegister => ({
  get: (vcpu) => vcpu.msrs.get(index) ?? initial,
  set(vcpu, value) {
    if (!legal(value, vcpu)) return false;
    vcpu.msrs.set(index, value);
    return true;
  },
});
const readOnly = (value: bigint): MsrRegister => ({ get: () => value, set: (_vcpu, written, host) => host && written === value });

const memoryType = (type: bigint): boolean => type === 0n || type === 1n || (type >= 4n && type <= 6n);
const validPat = (value: bigint): boolean => {
  for (let shift = 0n; shift < 64n; shift += 8n) {
    const type = (value >> shift) & 0xffn;
    if (!memoryType(type) && type !== 7n) return false;
  }
  return true;
};
const fixedMtrr = (value: bigint): boolean => {
  for (let shift = 0n; shift < 64n; shift += 8n) if (!memoryType((value >> shift) & 0xffn)) return false;
  return true;
};

const SUPPORTED_VARIABLE_MTRRS = 8;
const MTRR_MASK_VALID = 0x800n;
const MTRR_FRAME = (1n << BigInt(PHYSICAL_ADDRESS_BITS)) - 0x1000n;
/** Base and mask of a range take turns. Linux: `kvm_mtrr_valid()`. */
const variableMtrr = (value: bigint, isMask: boolean): boolean =>
  isMask ? (value & ~(MTRR_FRAME | MTRR_MASK_VALID)) === 0n : (value & ~(MTRR_FRAME | 0xffn)) === 0n && memoryType(value & 0xffn);

const EFER_REGISTER: MsrRegister = {
  get: (vcpu) => vcpu.efer,
  // @clause kvm.msr.efer
  set(vcpu, value, host) {
    if (!validEfer(value)) return false;
    if (!host && isPaging(vcpu) && (vcpu.efer ^ value) & BigInt(EFER.LME)) return false;
    vcpu.setEfer((value & ~BigInt(EFER.LMA)) | (vcpu.efer & BigInt(EFER.LMA)));
    return true;
  },
};

// The guest's time stamp counter is the processor's plus an offset that the hardware adds. Setting the counter is setting the offset.

const TSC_REGISTER: MsrRegister = {
  get: (vcpu) => vcpu.tsc,
  set(vcpu, value) {
    vcpu.tscOffset = value - vcpu.vm.hardware.tsc;
    return true;
  },
};
const TSC_ADJUST_REGISTER: MsrRegister = {
  get: (vcpu) => vcpu.msrs.get(MSR.TSC_ADJUST) ?? 0n,
  set(vcpu, value, host) {
    if (!host) vcpu.tscOffset += value - (vcpu.msrs.get(MSR.TSC_ADJUST) ?? 0n);
    vcpu.msrs.set(MSR.TSC_ADJUST, value);
    return true;
  },
};

// @clause kvm.msr.apic-base
const APIC_BASE_REGISTER: MsrRegister = {
  get: (vcpu) => vcpu.apicBase,
  set(vcpu, value, host) {
    if (vcpu.interruptController) return vcpu.interruptController.setApicBase(value, host);
    const bits = BigInt(vcpu.vm.hardware.cpu.physicalAddressBits);
    const x2apic = ((vcpu.cpuid.find(1, 0)?.ecx ?? 0) >>> 21) & 1;
    const allowed = (((1n << bits) - 1n) & ~0xfffn) | 0x900n | (x2apic ? 0x400n : 0n);
    if (value & ~allowed || (value & 0xc00n) === 0x400n) return false;
    vcpu.apicBase = value;
    return true;
  },
};

// A guest writes zero here before it reads: the microcode revision appears only after CPUID. So its writes are accepted and change nothing.

const UCODE_REVISION = 1n << 32n;
const UCODE_REGISTER: MsrRegister = {
  get: (vcpu) => vcpu.msrs.get(MSR.UCODE_REV) ?? UCODE_REVISION,
  set(vcpu, value, host) {
    if (host) vcpu.msrs.set(MSR.UCODE_REV, value);
    return true;
  },
};

// What the processor is spared, a guest is told, unless its VMM strikes it out: the guest may move to a processor that is not.

const ARCH_CAPABILITIES_REGISTER: MsrRegister = {
  get: (vcpu) => vcpu.msrs.get(MSR.ARCH_CAPABILITIES) ?? ARCH_CAPABILITIES,
  set(vcpu, value, host) {
    if (host) vcpu.msrs.set(MSR.ARCH_CAPABILITIES, value);
    return host;
  },
};

const registers = new Map<number, MsrRegister>([
  [MSR.SYSENTER_CS, inVmcs(FIELD.GUEST_SYSENTER_CS, (value) => value < 1n << 32n)],
  [MSR.SYSENTER_ESP, inVmcs(FIELD.GUEST_SYSENTER_ESP, canonical)],
  [MSR.SYSENTER_EIP, inVmcs(FIELD.GUEST_SYSENTER_EIP, canonical)],
  [MSR.STAR, inProcessor(OFFSET.STAR)],
  [MSR.CSTAR, inProcessor(OFFSET.CSTAR, canonical)],
  [MSR.KERNEL_GS_BASE, inProcessor(OFFSET.KERNEL_GS_BASE, canonical)],
  [MSR.SFMASK, inProcessor(OFFSET.SFMASK)],
  [MSR.LSTAR, inProcessor(OFFSET.LSTAR, canonical)],
  [MSR.TSC, TSC_REGISTER],
  [MSR.PAT, inVmcs(FIELD.GUEST_IA32_PAT, validPat)],
  [MSR.FEATURE_CONTROL, inKernel(MSR.FEATURE_CONTROL, 0n)],
  [MSR.TSC_ADJUST, TSC_ADJUST_REGISTER],
  [MSR.MISC_ENABLE, inKernel(MSR.MISC_ENABLE, 1n)],
  [MSR.UCODE_REV, UCODE_REGISTER],
  [MSR.ARCH_CAPABILITIES, ARCH_CAPABILITIES_REGISTER],
  [MSR.DEBUGCTL, inVmcs(FIELD.GUEST_IA32_DEBUGCTL, (value) => value < 4n)],
  [MSR.EFER, EFER_REGISTER],
  [MSR.FS_BASE, inVmcs(FIELD.GUEST_FS_BASE, canonical)],
  [MSR.GS_BASE, inVmcs(FIELD.GUEST_GS_BASE, canonical)],
  [MSR.TSC_AUX, inProcessor(OFFSET.TSC_AUX, (value) => value < 1n << 32n)],
  [MSR.APIC_BASE, APIC_BASE_REGISTER],
  [MSR.MTRR_CAP, readOnly(0x500n | BigInt(SUPPORTED_VARIABLE_MTRRS))],
  [MSR.MTRR_DEF_TYPE, inKernel(MSR.MTRR_DEF_TYPE, 0n, (value) => (value & ~0xcffn) === 0n && memoryType(value & 0xffn))],
  [MSR.MCG_CAP, readOnly(0n)],
  [MSR.MCG_STATUS, inKernel(MSR.MCG_STATUS, 0n)],
]);
for (let n = 0; n < 2 * SUPPORTED_VARIABLE_MTRRS; n++)
  registers.set(
    MSR.MTRR_PHYS_BASE0 + n,
    inKernel(MSR.MTRR_PHYS_BASE0 + n, 0n, (value) => variableMtrr(value, n % 2 === 1)),
  );
for (const index of [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f])
  registers.set(index, inKernel(index, 0n, fixedMtrr));

/** The order of KVM_GET_MSR_INDEX_LIST: what a VMM must save. EFER, the bases and the APIC's are in SREGS, but harmless here. */
export const MSR_LIST: readonly number[] = [...registers.keys()].filter((index) => index !== MSR.MTRR_CAP && index !== MSR.MCG_CAP);

/** What later chapters install in the kernel comes first. */
const registerAt = (vcpu: SoftVcpu, index: number): MsrRegister | undefined => vcpu.vm.msrs.get(index) ?? registers.get(index);

/** The value, or null for an index that does not exist. Linux: `kvm_get_msr()`. */
export const getMsr = (vcpu: SoftVcpu, index: number): bigint | null => registerAt(vcpu, index)?.get(vcpu) ?? null;

/** False for an index that does not exist or a value that it cannot hold. Linux: `kvm_set_msr()`. */
export const setMsr = (vcpu: SoftVcpu, index: number, value: bigint, host: boolean): boolean =>
  registerAt(vcpu, index)?.set(vcpu, value, host) ?? false;

// Some MSRs describe the processor instead of holding anything: which VMX controls there are, how it numbers its microcode. A VMM reads them from
// the *system* descriptor, before there is a vCPU, to decide what the vCPU shall be.

/** KVM_GET_MSR_FEATURE_INDEX_LIST. */
export const MSR_FEATURES: readonly number[] = [MSR.UCODE_REV, MSR.ARCH_CAPABILITIES];

/** A feature MSR of the host; null for an index that is none. */
export const featureMsr = (index: number): bigint | null =>
  index === MSR.UCODE_REV ? UCODE_REVISION : index === MSR.ARCH_CAPABILITIES ? ARCH_CAPABILITIES : null;

// ## Lists of MSRs

/** MAX_IO_MSRS: a longer list is refused unread. */
const MAX_ENTRIES = 256;

// @clause kvm.msr.stops-at-first-failure
/** KVM_GET_MSRS and KVM_SET_MSRS: does as many as it can and returns how many that was. Linux: `msr_io()`. */
export function msrList(view: DataView, one: (index: number, at: number) => boolean): number {
  const { nmsrs } = KvmMsrs.load(view);
  if (nmsrs >= MAX_ENTRIES) return -ERRNO.E2BIG;
  if (view.byteLength < KvmMsrs.bytes + nmsrs * KvmMsrEntry.bytes) return -ERRNO.EFAULT;
  for (let n = 0; n < nmsrs; n++) {
    const at = KvmMsrs.bytes + n * KvmMsrEntry.bytes;
    if (!one(view.getUint32(at, true), at)) return n;
  }
  return nmsrs;
}

// ## Which of them exit
//
// Without help every RDMSR and WRMSR would leave the guest. The *MSR bitmap* is a page with four kilobits each for reads and writes of two ranges of
// indices; a 0 lets the access through. Let through is what the hardware switches anyway and no guest can harm the host with: segment bases, the
// SYSENTER registers, and reading the clock.

const READ_LOW = 0;
const READ_HIGH = 1024;
const WRITE_LOW = 2048;
const WRITE_HIGH = 3072;
const PASS_THROUGH = [MSR.FS_BASE, MSR.GS_BASE, MSR.KERNEL_GS_BASE, MSR.SYSENTER_CS, MSR.SYSENTER_ESP, MSR.SYSENTER_EIP];

/** Writes a vCPU's initial MSR bitmap. Linux: `vmx_disable_intercept_for_msr()`. */
export function writeMsrBitmap(page: Uint8Array): void {
  page.fill(0xff);
  const clear = (base: number, index: number): void => {
    const bit = index & 0x1fff;
    page[base + (bit >> 3)] = (page[base + (bit >> 3)] as number) & ~(1 << (bit & 7));
  };
  for (const index of PASS_THROUGH) {
    const high = index >= 0xc0000000;
    clear(high ? READ_HIGH : READ_LOW, index);
    clear(high ? WRITE_HIGH : WRITE_LOW, index);
  }
  clear(READ_LOW, MSR.TSC);
}

// # What the guest is told it runs on
//
// CPUID always exits from VMX non-root operation. The answer comes from a table that the VMM gave to the vCPU: it can hide a feature of the host,
// never add one (the guest would find out). The usual way is to ask the kernel what it could support, strike out what the virtual machine shall not
// have, and hand the rest back. Two answers cannot be in any table because they change while the guest runs: whether the operating system has
// enabled XSAVE, and whether its local APIC is on.

import { CR4 } from '../../01-hardware-background/state.ts';
import { XSAVE_BYTES } from '../../01-hardware-background/system/extended-state.ts';
import { KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KvmCpuid2, KvmCpuidEntry2 } from '../abi/registers.ts';
import { ERRNO } from '../errno.ts';
import type { Hardware } from './hardware.ts';
import type { SoftVcpu } from './vcpu.ts';

/** KVM_MAX_CPUID_ENTRIES. */
const MAX_ENTRIES = 256;

export interface CpuidEntry {
  readonly function: number;
  readonly index: number;
  readonly flags: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

type CpuidAnswer = Pick<CpuidEntry, 'eax' | 'ebx' | 'ecx' | 'edx'>;

const NOTHING: CpuidAnswer = { eax: 0, ebx: 0, ecx: 0, edx: 0 };
const OSXSAVE = 1 << 27; // leaf 1, ECX
const APIC = 1 << 9; // leaf 1, EDX
const APIC_ENABLED = 1n << 11n;
const HYPERVISOR = 1 << 31; // leaf 1, ECX: "you are a guest"
const VMX = 1 << 5; // leaf 1, ECX
const MONITOR = 1 << 3; // leaf 1, ECX
const EXTENDED_STATE = 0xd;

/** A vCPU's CPUID table. */
export class CpuidTable {
  entries: readonly CpuidEntry[] = [];

  find(leaf: number, index: number): CpuidEntry | undefined {
    for (const entry of this.entries)
      if (entry.function === leaf && (entry.index === index || !(entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX))) return entry;
    return undefined;
  }

  // @clause kvm.cpuid.out-of-range
  /** An Intel processor answers a leaf above its highest with the data of its highest basic leaf, and so must its model. Linux: `kvm_cpuid()`. */
  answer(leaf: number, index: number): CpuidAnswer {
    const exact = this.find(leaf, index);
    if (exact) return exact;
    const basic = this.find(0, 0);
    if (!basic) return NOTHING;
    const hypervisor = leaf >= 0x40000000 && leaf <= 0x4fffffff;
    const top = this.find(hypervisor ? (leaf & 0xffffff00) >>> 0 : (leaf & 0x80000000) >>> 0, 0);
    if (top && leaf <= top.eax) return NOTHING;
    return this.find(basic.eax, index) ?? NOTHING;
  }
}

/** What the instruction returns now: the table and the two bits of run-time state. Linux: `kvm_update_cpuid_runtime()`. */
export function cpuid(vcpu: SoftVcpu, leaf: number, index: number): CpuidAnswer {
  const answer = vcpu.cpuid.answer(leaf, index);
  if (leaf === EXTENDED_STATE && index === 0) return { ...answer, ebx: XSAVE_BYTES };
  if (leaf !== 1) return answer;
  const osxsave = (vcpu.cr4 & BigInt(CR4.OSXSAVE)) !== 0n;
  const apic = (vcpu.apicBase & APIC_ENABLED) !== 0n;
  return { ...answer, ecx: osxsave ? answer.ecx | OSXSAVE : answer.ecx & ~OSXSAVE, edx: apic ? answer.edx : answer.edx & ~APIC };
}

/** Leaves whose answer depends on ECX. */
const INDEXED = new Set([4, 7, 0xb, 0xd]);

/** The table that KVM_GET_SUPPORTED_CPUID offers: the processor's own answers, less what is not offered to guests. Linux: `__do_cpuid_func()`. */
export function supportedCpuid(hardware: Hardware, additions: readonly ((entries: CpuidEntry[]) => void)[] = []): CpuidEntry[] {
  const entries: CpuidEntry[] = [];
  const add = (leaf: number, index: number): CpuidAnswer => {
    const [eax, ebx, ecx, edx] = hardware.hostCpuid(leaf, index);
    const answer = { eax, ebx, ecx, edx };
    if (leaf === 1) {
      answer.ecx = ((ecx & ~(VMX | MONITOR | OSXSAVE)) | HYPERVISOR) >>> 0;
      answer.ebx = ebx & 0x00ffffff; // the initial APIC id is the VMM's to fill in
    }
    entries.push({ function: leaf, index, flags: INDEXED.has(leaf) ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0, ...answer });
    return answer;
  };
  const range = (first: number): void => {
    const { eax: last } = add(first, 0);
    for (let leaf = first + 1; leaf <= last && leaf - first < 0x40; leaf++) {
      const answer = add(leaf, 0);
      if (leaf === 4) for (let index = 1; index < 8 && (entries.at(-1) as CpuidEntry).eax & 0x1f; index++) add(leaf, index);
      if (leaf === 0xd) {
        add(leaf, 1);
        for (let index = 2; index < 32; index++) if ((answer.eax >>> index) & 1) add(leaf, index);
      }
    }
  };
  range(0);
  range(0x80000000);
  for (const addTo of additions) addTo(entries);
  return entries;
}

// ## Handing tables over
//
// A table has as many entries as its head says. When the caller's array is too short the answer is E2BIG and nothing is written;
// `KVM_GET_SUPPORTED_CPUID` callers therefore start with a guess and double it.

// @clause kvm.cpuid.e2big
/** Writes `entries` behind the head in `view`. */
export function storeCpuid(view: DataView, entries: readonly CpuidEntry[]): number {
  const { nent } = KvmCpuid2.load(view);
  if (nent < entries.length) return -ERRNO.E2BIG;
  if (view.byteLength < KvmCpuid2.bytes + entries.length * KvmCpuidEntry2.bytes) return -ERRNO.EFAULT;
  KvmCpuid2.store(view, 0, { nent: entries.length });
  entries.forEach((entry, n) => {
    KvmCpuidEntry2.store(view, KvmCpuid2.bytes + n * KvmCpuidEntry2.bytes, entry);
  });
  return 0;
}

/** Reads a table from the caller; a negative errno when it is too long or not all there. */
export function loadCpuid(view: DataView): CpuidEntry[] | number {
  const { nent } = KvmCpuid2.load(view);
  if (nent > MAX_ENTRIES) return -ERRNO.E2BIG;
  if (view.byteLength < KvmCpuid2.bytes + nent * KvmCpuidEntry2.bytes) return -ERRNO.EFAULT;
  return Array.from({ length: nent }, (_, n) => KvmCpuidEntry2.load(view, KvmCpuid2.bytes + n * KvmCpuidEntry2.bytes));
}

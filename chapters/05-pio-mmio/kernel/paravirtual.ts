// # What CPUID adds
//
// A guest asks CPUID whether it runs on a hypervisor (leaf 1 says so), on which, and what that one offers besides a processor. The leaves from
// 0x40000000 on belong to hypervisors by agreement; KVM's signature is in the first and its features are in the next. Nothing is offered here that
// this kernel does not do.
//
// Two bits of leaf 1 depend on where the local APIC is. x2APIC is always offered, though it works only with a local APIC in the kernel. TSC-deadline
// is never offered, and a VMM that has asked for KVM_CAP_TSC_DEADLINE_TIMER adds it itself. Neither is logical; both are KVM's interface.

import type { CpuidEntry } from '../../02-kvm-objects/soft/cpuid.ts';

const APIC = 1 << 9; // leaf 1, EDX
const X2APIC = 1 << 21; // leaf 1, ECX
const SIGNATURE_LEAF = 0x40000000;
const FEATURES_LEAF = 0x40000001;

/** KVM_FEATURE bits of the features leaf, EAX. */
const FEATURE = {
  CLOCKSOURCE: 1 << 0, // kvmclock, by the old MSRs
  NOP_IO_DELAY: 1 << 1, // ports need no pauses between accesses
  CLOCKSOURCE2: 1 << 3, // kvmclock, by the new MSRs
  CLOCKSOURCE_STABLE: 1 << 24, // its page is right for every processor
} as const;

/** `KVMKVMKVM`, padded, as EBX, ECX and EDX. */
const SIGNATURE = { ebx: 0x4b4d564b, ecx: 0x564b4d56, edx: 0x4d } as const;

// @clause kvm.cpuid.signature
/** Adds to KVM_GET_SUPPORTED_CPUID's table. */
export function addPlatformCpuid(entries: CpuidEntry[]): void {
  const leaf1 = entries.findIndex((entry) => entry.function === 1);
  const one = entries[leaf1];
  if (one) entries[leaf1] = { ...one, ecx: (one.ecx | X2APIC) >>> 0, edx: (one.edx | APIC) >>> 0 };
  const features = Object.values(FEATURE).reduce((all, bit) => all | bit, 0) >>> 0;
  entries.push({ function: SIGNATURE_LEAF, index: 0, flags: 0, eax: FEATURES_LEAF, ...SIGNATURE });
  entries.push({ function: FEATURES_LEAF, index: 0, flags: 0, eax: features, ebx: 0, ecx: 0, edx: 0 });
}

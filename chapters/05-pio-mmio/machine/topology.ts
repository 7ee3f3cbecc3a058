// # Who is who
//
// Each processor asks CPUID who it is and who else there is. The kernel's answer describes the host's package; this machine is one package of cores
// with one thread each.

import { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } from '../../02-kvm-objects/abi/registers.ts';
import type { CpuidEntry } from '../../02-kvm-objects/vcpu-state.ts';

const CPUID_HTT = 1 << 28; // leaf 1, EDX: EBX counts the logical processors
const LEVEL = { THREAD: 1, CORE: 2 } as const;

/** CPUID of processor `id` of `count`. */
export function withTopology(entries: readonly CpuidEntry[], id: number, count: number): CpuidEntry[] {
  const bits = 32 - Math.clz32(count - 1);
  const own = entries.filter(({ function: leaf }) => leaf !== 0xb && leaf !== 0x1f);
  const several = own.map((entry) => (entry.function === 1 && count > 1 ? { ...entry, edx: (entry.edx | CPUID_HTT) >>> 0 } : entry));
  if (own.length === entries.length) return several;
  const level = (index: number, type: number, shift: number, processors: number): CpuidEntry => ({
    function: 0xb,
    index,
    flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    eax: shift,
    ebx: processors,
    ecx: (type << 8) | index,
    edx: id,
  });
  return [...several, level(0, LEVEL.THREAD, 0, 1), level(1, LEVEL.CORE, bits, count), { ...level(2, 0, 0, 0), ecx: 2 }];
}

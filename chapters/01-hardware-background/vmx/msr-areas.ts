// # MSR areas
//
// A handful of MSRs have fields of their own in the VMCS, because every guest and host differ in them: EFER, PAT, DEBUGCTL, the SYSENTER three. For
// all others there are lists in memory, of 16-byte entries: load these on entry; on exit store these and load those. A list is slow, so KVM
// keeps it short or empty and prefers to leave the guest's values in the registers until it knows that someone will look
// (`vmx_prepare_switch_to_host()`).

import { Fault } from '../faults.ts';
import { layout, u32le, u64le } from '../layout.ts';
import type { VmxProcessor } from './processor.ts';

// ::layout MsrEntry -- One entry of an MSR area.

/** One entry of an MSR area (Intel SDM vol. 3, "Format of an MSR Entry"). */
export const MsrEntry = layout('msr_entry', {
  index: u32le(0),
  reserved: u32le(4), // must be 0
  data: u64le(8),
});

const IA32_SMM_MONITOR_CTL = 0x9b;
const IA32_FS_BASE = 0xc000_0100;
const IA32_GS_BASE = 0xc000_0101;

const isX2apic = (index: number): boolean => index >>> 8 === 8;
// FS and GS bases belong to segment registers, which the switch loads anyhow; the others would change the meaning of the switch under way.
const loadable = (index: number): boolean => index !== IA32_FS_BASE && index !== IA32_GS_BASE && index !== IA32_SMM_MONITOR_CTL && !isX2apic(index);

/** Runs `step` for each entry. Returns 0, or the number (from 1) of the first entry that failed. */
function eachEntry(cpu: VmxProcessor, address: number, count: number, step: (at: number, index: number) => boolean): number {
  const { memory } = cpu;
  for (let i = 0; i < count; i++) {
    const hpa = address + i * MsrEntry.bytes;
    if (!memory.holds(hpa, MsrEntry.bytes)) return i + 1;
    const at = memory.offset(hpa, MsrEntry.bytes);
    const { index, reserved } = MsrEntry.fields;
    if (reserved.get(memory.view, at) !== 0) return i + 1;
    try {
      if (!step(at, index.get(memory.view, at))) return i + 1;
    } catch (fault) {
      if (fault instanceof Fault) return i + 1;
      throw fault;
    }
  }
  return 0;
}

/** Loads every MSR of an area. Returns 0, or the number (from 1) of the entry that failed. */
export const loadMsrs = (cpu: VmxProcessor, address: number, count: number): number =>
  eachEntry(cpu, address, count, (at, index) => {
    if (!loadable(index)) return false;
    cpu.writeMsr(index, MsrEntry.fields.data.get(cpu.memory.view, at));
    return true;
  });

/** Stores every MSR named in an area into it. Returns 0, or the number (from 1) of the entry that failed. */
export const storeMsrs = (cpu: VmxProcessor, address: number, count: number): number =>
  eachEntry(cpu, address, count, (at, index) => {
    if (index === IA32_SMM_MONITOR_CTL || isX2apic(index)) return false;
    MsrEntry.fields.data.set(cpu.memory.view, at, cpu.readMsr(index));
    return true;
  });

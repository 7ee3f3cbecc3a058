// # Deciding what leaves
//
// In non-root operation each sensitive instruction asks the questions of `Intercepts`; here are the answers. The control words, masks and bitmaps are
// read from the current VMCS once, at VM entry, into plain fields -- real processors do the same, which is why changing a field behind VMWRITE's back
// has no defined effect. The bitmaps themselves stay in memory and are read at each access, as the architecture has it.
//
// Two patterns recur. A *bitmap* refines a yes or no by number: exceptions, ports, MSRs. A *mask with a shadow* splits a register: bits in the
// guest/host mask belong to the host, the guest reads them from the shadow and exits only when it tries to make them differ from it. So a guest may
// toggle CR0.TS a million times without an exit while its hypervisor keeps hold of CR0.NE. The classic alternative -- trap every MOV to CR0 -- is the
// special case of a full mask.

import { type Fault, generalProtection, undefinedOpcode, VECTOR, VmExit } from '../faults.ts';
import type { EptContext, Intercepts, IoAccess } from '../intercepts.ts';
import { CR0, OFFSET } from '../state.ts';
import { secondary } from './checks.ts';
import { CPU_BASED, CR0_FIXED0, CR0_FIXED1, CR4_FIXED0, cr4Fixed1, EPTP, PIN, SECONDARY } from './controls.ts';
import { EXIT_REASON, INTR_INFO } from './exit-reasons.ts';
import { EVENT_TYPE, type VmxProcessor } from './processor.ts';
import { AT, type Vmcs } from './vmcs.ts';

const { mask: C } = CPU_BASED;
const { mask: S } = SECONDARY;

/** Which control makes an instruction exit, for those that have one. The others in the table of reasons exit always. */
// biome-ignore format: table
const PRIMARY_SWITCH: Readonly<Partial<Record<number, number>>> = {
  [EXIT_REASON.HLT]: C.HLT_EXITING, [EXIT_REASON.INVLPG]: C.INVLPG_EXITING, [EXIT_REASON.RDPMC]: C.RDPMC_EXITING, [EXIT_REASON.RDTSC]: C.RDTSC_EXITING,
  [EXIT_REASON.RDTSCP]: C.RDTSC_EXITING, [EXIT_REASON.INVPCID]: C.INVLPG_EXITING, [EXIT_REASON.MWAIT_INSTRUCTION]: C.MWAIT_EXITING,
  [EXIT_REASON.MONITOR_INSTRUCTION]: C.MONITOR_EXITING, [EXIT_REASON.PAUSE_INSTRUCTION]: C.PAUSE_EXITING,
};
const SECONDARY_SWITCH: Readonly<Partial<Record<number, number>>> = {
  [EXIT_REASON.GDTR_IDTR]: S.DESC_EXITING,
  [EXIT_REASON.LDTR_TR]: S.DESC_EXITING,
  [EXIT_REASON.WBINVD]: S.WBINVD_EXITING,
};
/**
 * Instructions that do not exist in non-root operation unless a secondary control enables them, so that a guest cannot meet one its hypervisor has
 * never heard of.
 */
const ENABLED_BY: Readonly<Partial<Record<number, number>>> = {
  [EXIT_REASON.RDTSCP]: S.ENABLE_RDTSCP,
  [EXIT_REASON.INVPCID]: S.ENABLE_INVPCID,
};

const MSR_LOW_END = 0x2000;
const MSR_HIGH = 0xc000_0000;
const WRITE_BITMAPS = 2048;
const HIGH_BITMAP = 1024;
const VTPR = 0x80; // byte of the virtual-APIC page

/** Exit-qualification values of a control-register access. */
const CR_ACCESS = { TO: 0, FROM: 1, CLTS: 2, LMSW: 3 } as const;
const TASK_SOURCE = { call: 0, iret: 1, jmp: 2, idt: 3 } as const;
const ADDRESS_SIZE = { 16: 0, 32: 1, 64: 2 } as const;

const eventInfo = (vector: number, type: number, withCode = false): number =>
  (INTR_INFO.mask.VALID | (type << 8) | vector | (withCode ? INTR_INFO.mask.DELIVER_CODE : 0)) >>> 0;

/** The current VMCS' decisions about the guest that is running. One object serves a processor for life: `compile` refreshes it at VM entry. */
export class VmxIntercepts implements Intercepts {
  ept: EptContext | null = null;
  /** The virtual-processor identifier; 0 when VPIDs are off. */
  vpid = 0;
  readonly #cpu: VmxProcessor;
  #pin = 0;
  #primary = 0;
  #secondary = 0;
  #exceptions = 0;
  #pageFaultMask = 0;
  #pageFaultMatch = 0;
  #cr0Mask = 0n;
  #cr0Shadow = 0n;
  #cr4Mask = 0n;
  #cr4Shadow = 0n;
  #cr3Targets: bigint[] = [];
  #ioA = 0;
  #ioB = 0;
  #msrs = 0;
  #virtualApic = 0;
  #tprThreshold = 0;
  #acknowledge = false;

  constructor(cpu: VmxProcessor) {
    this.#cpu = cpu;
  }

  /** Reads the controls that VM entry has found valid. `acknowledge` is the VM-exit control "acknowledge interrupt on exit". */
  compile(v: Vmcs, acknowledge: boolean): void {
    this.#pin = v.read32(AT.PIN_BASED_VM_EXEC_CONTROL);
    this.#secondary = secondary(v);
    this.#pageFaultMask = v.read32(AT.PAGE_FAULT_ERROR_CODE_MASK);
    this.#pageFaultMatch = v.read32(AT.PAGE_FAULT_ERROR_CODE_MATCH);
    this.#cr0Mask = v.read64(AT.CR0_GUEST_HOST_MASK);
    this.#cr4Mask = v.read64(AT.CR4_GUEST_HOST_MASK);
    const targets = [AT.CR3_TARGET_VALUE0, AT.CR3_TARGET_VALUE1, AT.CR3_TARGET_VALUE2, AT.CR3_TARGET_VALUE3];
    this.#cr3Targets = targets.slice(0, v.read32(AT.CR3_TARGET_COUNT)).map((at) => v.read64(at));
    this.#ioA = v.readNumber(AT.IO_BITMAP_A);
    this.#ioB = v.readNumber(AT.IO_BITMAP_B);
    this.#msrs = v.readNumber(AT.MSR_BITMAP);
    this.#virtualApic = v.readNumber(AT.VIRTUAL_APIC_PAGE_ADDR);
    this.#acknowledge = acknowledge;
    this.vpid = this.#secondary & S.ENABLE_VPID ? v.read32(AT.VIRTUAL_PROCESSOR_ID) : 0;
    this.refresh(v);
    const eptp = v.read32(AT.EPT_POINTER);
    this.ept =
      this.#secondary & S.ENABLE_EPT
        ? { root: v.readNumber(AT.EPT_POINTER) - (eptp & 0xfff), accessedDirty: (eptp & EPTP.ACCESSED_DIRTY) !== 0, executeOnly: true }
        : null;
  }

  /** The part of `compile` for fields that hypervisors change between most entries and that need no check. */
  refresh(v: Vmcs): void {
    this.#primary = v.read32(AT.CPU_BASED_VM_EXEC_CONTROL);
    this.#exceptions = v.read32(AT.EXCEPTION_BITMAP);
    this.#cr0Shadow = v.read64(AT.CR0_READ_SHADOW);
    this.#cr4Shadow = v.read64(AT.CR4_READ_SHADOW);
    this.#tprThreshold = v.read32(AT.TPR_THRESHOLD) & 0xf;
  }

  /** Exit after each instruction. */
  get monitorTrap(): boolean {
    return (this.#primary & C.MONITOR_TRAP_FLAG) !== 0;
  }
  get unrestricted(): boolean {
    return (this.#secondary & S.UNRESTRICTED_GUEST) !== 0;
  }
  get virtualNmis(): boolean {
    return (this.#pin & PIN.mask.VIRTUAL_NMIS) !== 0;
  }
  /** External interrupts are looked at even while the guest has RFLAGS.IF clear. */
  get externalInterruptExiting(): boolean {
    return (this.#pin & PIN.mask.EXT_INTR_EXITING) !== 0;
  }
  get watchesPageFaults(): boolean {
    return ((this.#exceptions >>> VECTOR.PF) & 1) === 1 || this.#pageFaultMask !== 0 || this.#pageFaultMatch !== 0;
  }
  get watchesTranslations(): boolean {
    return (this.#primary & (C.CR3_LOAD_EXITING | C.CR3_STORE_EXITING | C.INVLPG_EXITING)) !== 0;
  }
  get watchesClock(): boolean {
    return (this.#primary & (C.RDTSC_EXITING | C.PAUSE_EXITING)) !== 0 || (this.#secondary & S.ENABLE_RDTSCP) === 0;
  }
  /** Boundaries must be looked at because a window is awaited. */
  get awaitsWindow(): boolean {
    return (this.#primary & (C.INTR_WINDOW_EXITING | C.NMI_WINDOW_EXITING)) !== 0;
  }

  instruction(reason: number, length: number, qualification = 0n, instructionInfo?: number): void {
    if (!this.#exits(reason)) return;
    throw new VmExit(reason, qualification, { instructionLength: length, ...(instructionInfo !== undefined && { instructionInfo }) });
  }

  exitOf(reason: number, length: number): VmExit | null {
    return this.#exits(reason) ? new VmExit(reason, 0n, { instructionLength: length }) : null;
  }

  #exits(reason: number): boolean {
    const enable = ENABLED_BY[reason];
    // @clause vmx.exit.disabled-instruction-ud
    if (enable !== undefined && (this.#secondary & enable) === 0) throw undefinedOpcode();
    const primary = PRIMARY_SWITCH[reason];
    if (primary !== undefined && (this.#primary & primary) === 0) return false;
    const second = SECONDARY_SWITCH[reason];
    return second === undefined || (this.#secondary & second) !== 0;
  }

  // ## Ports
  //
  // Two pages hold one bit for each of the 65,536 ports. An access exits when the bit of any byte it touches is set, and also when it runs past the
  // last port:
  // otherwise a guest could reach port 0 through a four-byte access at 0xfffd.

  io(access: IoAccess, length: number): VmExit | null {
    const { port, size, direction, string, rep, immediate } = access;
    if (!this.#ioExits(port, size)) return null;
    const qualification = (size - 1) | (direction === 'in' ? 8 : 0) | (string ? 16 : 0) | (rep ? 32 : 0) | (immediate ? 64 : 0) | (port << 16);
    if (!string) return new VmExit(EXIT_REASON.IO_INSTRUCTION, BigInt(qualification >>> 0), { instructionLength: length });
    // @clause vmx.exit.io-string-info
    const info = access.addressSize !== undefined ? (ADDRESS_SIZE[access.addressSize] << 7) | ((access.segment ?? 0) << 15) : undefined;
    return new VmExit(EXIT_REASON.IO_INSTRUCTION, BigInt(qualification >>> 0), {
      instructionLength: length,
      ...(info !== undefined && { instructionInfo: info }),
      ...(access.linear !== undefined && { guestLinearAddress: access.linear }),
    });
  }

  #ioExits(port: number, size: number): boolean {
    // @clause vmx.exit.io-bitmap
    if (this.#primary & C.USE_IO_BITMAPS) {
      if (port + size > 0x1_0000) return true;
      for (let p = port; p < port + size; p++) {
        const at = (p < 0x8000 ? this.#ioA : this.#ioB) + ((p & 0x7fff) >> 3);
        if ((this.#physical8(at) >> (p & 7)) & 1) return true;
      }
      return false;
    }
    return (this.#primary & C.UNCOND_IO_EXITING) !== 0;
  }

  // A bitmap outside of RAM is open bus: all ones, everything exits.
  #physical8(address: number): number {
    const { memory } = this.#cpu;
    return memory.holds(address) ? (memory.u8[memory.offset(address)] as number) : 0xff;
  }

  // ## MSRs
  //
  // Four bitmaps in one page, for reads and writes of two ranges of 8,192 registers. Every MSR outside those ranges exits, as does every MSR when
  // there is no bitmap.

  readMsr(index: number, length: number): VmExit | null {
    return this.#msrExits(index, 0) ? new VmExit(EXIT_REASON.MSR_READ, 0n, { instructionLength: length }) : null;
  }

  writeMsr(index: number, length: number): VmExit | null {
    return this.#msrExits(index, WRITE_BITMAPS) ? new VmExit(EXIT_REASON.MSR_WRITE, 0n, { instructionLength: length }) : null;
  }

  // @clause vmx.exit.msr-bitmap
  #msrExits(index: number, part: number): boolean {
    if ((this.#primary & C.USE_MSR_BITMAPS) === 0) return true;
    const low = index < MSR_LOW_END;
    const n = low ? index : index - MSR_HIGH;
    if (n < 0 || n >= MSR_LOW_END) return true;
    const at = this.#msrs + part + (low ? 0 : HIGH_BITMAP) + (n >> 3);
    return ((this.#physical8(at) >> (n & 7)) & 1) !== 0;
  }

  // ## Control registers

  writeCr(n: 0 | 3 | 4 | 8, value: bigint, gpr: number, length: number): bigint {
    const exit = (): never => {
      throw new VmExit(EXIT_REASON.CR_ACCESS, BigInt(n | (CR_ACCESS.TO << 4) | (gpr << 8)), { instructionLength: length });
    };
    switch (n) {
      case 0: {
        // @clause vmx.exit.cr-mask-shadow
        if ((value ^ this.#cr0Shadow) & this.#cr0Mask) exit();
        return this.#fixedBits(n, (value & ~this.#cr0Mask) | (this.#cpu.state.get64(OFFSET.CR0) & this.#cr0Mask));
      }
      case 4: {
        if ((value ^ this.#cr4Shadow) & this.#cr4Mask) exit();
        return this.#fixedBits(n, (value & ~this.#cr4Mask) | (this.#cpu.state.get64(OFFSET.CR4) & this.#cr4Mask));
      }
      case 3:
        // @clause vmx.exit.cr3-targets
        if (this.#primary & C.CR3_LOAD_EXITING && !this.#cr3Targets.includes(value)) exit();
        return value;
      case 8:
        if (this.#primary & C.CR8_LOAD_EXITING) exit();
        return this.#primary & C.TPR_SHADOW ? this.#writeTpr(value, length) : value;
    }
  }

  // A guest may set bits that the mask leaves to it, but not to values that VMX operation forbids.
  #fixedBits(n: 0 | 4, value: bigint): bigint {
    const low = Number(value & 0xffff_ffffn);
    const [fixed0, fixed1] =
      n === 4 ? [CR4_FIXED0, cr4Fixed1(this.#cpu.linearAddressBits)] : [this.unrestricted ? CR0_FIXED0 & ~(CR0.PE | CR0.PG) : CR0_FIXED0, CR0_FIXED1];
    if ((fixed0 & ~low) !== 0 || (low & ~fixed1) !== 0) throw generalProtection();
    return value;
  }

  // With a TPR shadow, MOV to CR8 writes a byte of the virtual-APIC page. Only falling below the threshold needs the hypervisor: then an interrupt
  // that it holds back might have become deliverable. The exit comes after the instruction, because the write stands.

  #writeTpr(value: bigint, length: number): bigint {
    if (value > 15n) throw generalProtection();
    const { memory, state } = this.#cpu;
    const priority = Number(value);
    if (memory.holds(this.#virtualApic + VTPR)) memory.u8[memory.offset(this.#virtualApic + VTPR)] = priority << 4;
    // @clause vmx.exit.tpr-threshold
    if (priority < this.#tprThreshold) throw new VmExit(EXIT_REASON.TPR_BELOW_THRESHOLD, 0n, { instructionLength: length, afterInstruction: true });
    return state.get64(OFFSET.CR8);
  }

  readCr(n: 0 | 3 | 4 | 8, value: bigint, gpr: number, length: number): bigint {
    const exit = (): never => {
      throw new VmExit(EXIT_REASON.CR_ACCESS, BigInt(n | (CR_ACCESS.FROM << 4) | (gpr << 8)), { instructionLength: length });
    };
    switch (n) {
      case 0:
        return (value & ~this.#cr0Mask) | (this.#cr0Shadow & this.#cr0Mask);
      case 4:
        return (value & ~this.#cr4Mask) | (this.#cr4Shadow & this.#cr4Mask);
      case 3:
        if (this.#primary & C.CR3_STORE_EXITING) exit();
        return value;
      case 8:
        if (this.#primary & C.CR8_STORE_EXITING) exit();
        return this.#primary & C.TPR_SHADOW ? BigInt(this.#physical8(this.#virtualApic + VTPR) >> 4) : value;
    }
  }

  clts(length: number): void {
    const ts = BigInt(CR0.TS);
    if (this.#cr0Mask & this.#cr0Shadow & ts) throw new VmExit(EXIT_REASON.CR_ACCESS, BigInt(CR_ACCESS.CLTS << 4), { instructionLength: length });
  }

  /** True when CLTS, having not exited, leaves CR0.TS alone: the bit is the host's, and the guest's view of it is clear already. */
  get hostOwnsTs(): boolean {
    return (this.#cr0Mask & BigInt(CR0.TS)) !== 0n;
  }

  lmsw(value: number, length: number, memoryOperand: boolean, linear: bigint): number {
    const mask = Number(this.#cr0Mask & 0xfn);
    const shadow = Number(this.#cr0Shadow & 0xfn);
    const differs = (value ^ shadow) & mask;
    // LMSW can set PE but not clear it, so an attempt to clear it is no change.
    const matters = value & CR0.PE ? differs : differs & ~CR0.PE;
    if (matters) {
      const qualification = (CR_ACCESS.LMSW << 4) | (memoryOperand ? 1 << 6 : 0) | ((value & 0xffff) << 16);
      throw new VmExit(EXIT_REASON.CR_ACCESS, BigInt(qualification >>> 0), {
        instructionLength: length,
        ...(memoryOperand && { guestLinearAddress: linear }),
      });
    }
    return (value & ~mask) | (this.#cpu.state.low32(OFFSET.CR0) & mask & 0xf);
  }

  /** MOV to or from a debug register; `in` is from it, as IN is from a port. */
  accessDr(n: number, direction: 'in' | 'out', gpr: number, length: number): void {
    if ((this.#primary & C.MOV_DR_EXITING) === 0) return;
    throw new VmExit(EXIT_REASON.DR_ACCESS, BigInt(n | (direction === 'in' ? 1 << 4 : 0) | (gpr << 8)), { instructionLength: length });
  }

  taskSwitch(selector: number, source: 'call' | 'iret' | 'jmp' | 'idt', length: number): void {
    throw new VmExit(EXIT_REASON.TASK_SWITCH, BigInt(selector) | (BigInt(TASK_SOURCE[source]) << 30n), { instructionLength: length });
  }

  // ## Exceptions and interrupts
  //
  // Page faults are the one exception that is too common and too varied for a single bit: under shadow paging the hypervisor wants those
  // which its own tables caused and not those which the guest's tables caused. The error code tells them apart only in part, so a mask and a match
  // value select; where the selected bits match, bit 14 of the bitmap decides as for any vector, and elsewhere its opposite does.

  // @clause vmx.exit.exception-bitmap
  exception(fault: Fault, length: number, dr6: number): void {
    const { vector, errorCode } = fault;
    let exits = ((this.#exceptions >>> vector) & 1) === 1;
    // @clause vmx.exit.page-fault-match
    if (vector === VECTOR.PF && ((errorCode ?? 0) & this.#pageFaultMask) >>> 0 !== this.#pageFaultMatch) exits = !exits;
    if (!exits) return;
    // INT1 is the one #DB with an instruction to its name.
    const icebp = vector === VECTOR.DB && length > 0;
    const software = vector === VECTOR.BP || vector === VECTOR.OF;
    const type = icebp ? EVENT_TYPE.PRIVILEGED_SOFTWARE_EXCEPTION : software ? EVENT_TYPE.SOFTWARE_EXCEPTION : EVENT_TYPE.HARDWARE_EXCEPTION;
    const qualification = vector === VECTOR.PF ? (fault.cr2 ?? 0n) : vector === VECTOR.DB ? BigInt(dr6 & 0xe00f) : 0n;
    throw new VmExit(EXIT_REASON.EXCEPTION_NMI, qualification, {
      interruptionInfo: eventInfo(vector, type, errorCode !== null),
      ...(errorCode !== null && { interruptionErrorCode: errorCode }),
      ...((software || icebp) && { instructionLength: length }),
    });
  }

  tripleFault(): never {
    throw new VmExit(EXIT_REASON.TRIPLE_FAULT);
  }

  externalInterrupt(): boolean {
    if (!this.externalInterruptExiting) return false;
    // @clause vmx.exit.acknowledge-interrupt
    if (!this.#acknowledge) throw new VmExit(EXIT_REASON.EXTERNAL_INTERRUPT);
    throw new VmExit(EXIT_REASON.EXTERNAL_INTERRUPT, 0n, { interruptionInfo: eventInfo(this.#cpu.acknowledgeInterrupt(), EVENT_TYPE.EXTERNAL) });
  }

  nmi(): boolean {
    if ((this.#pin & PIN.mask.NMI_EXITING) === 0) return false;
    throw new VmExit(EXIT_REASON.EXCEPTION_NMI, 0n, { interruptionInfo: eventInfo(VECTOR.NMI, EVENT_TYPE.NMI) });
  }

  // @clause vmx.exit.windows
  get watchesWindows(): boolean {
    return (this.#primary & (C.NMI_WINDOW_EXITING | C.INTR_WINDOW_EXITING)) !== 0;
  }

  windows(canInterrupt: boolean, canNmi: boolean): void {
    if (canNmi && this.#primary & C.NMI_WINDOW_EXITING) throw new VmExit(EXIT_REASON.NMI_WINDOW);
    if (canInterrupt && this.#primary & C.INTR_WINDOW_EXITING) throw new VmExit(EXIT_REASON.INTERRUPT_WINDOW);
  }
}

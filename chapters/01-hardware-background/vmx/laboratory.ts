// # A bench for VMX
//
// What VMX does is hard to see on a whole processor, on which a guest would have to be written for each case. Here is one without a decoder: a test
// writes a VMCS, enters, and says itself what the guest has done.

import { expect } from 'vitest';
import { writeFlags } from '../engine/flags.ts';
import { Fault, VECTOR } from '../faults.ts';
import type { Intercepts } from '../intercepts.ts';
import type { Instruction } from '../isa/instruction.ts';
import { PhysicalMemory } from '../physical-memory.ts';
import { AR, CpuState, CR4, EFER, FLAG, OFFSET, SEG } from '../state.ts';
import { Recorder } from '../trace.ts';
import { adjust, CAPABILITY, CPU_BASED, ENTRY, EXIT, SECONDARY } from './controls.ts';
import { INTR_INFO } from './exit-reasons.ts';
import type { DeliveredEvent, VmxProcessor } from './processor.ts';
import { FIELD, type FieldName, REVISION_ID } from './vmcs.ts';
import { VmxUnit } from './vmx.ts';

/** Guest-state fields of the segments in long mode, flat, with the descriptor table that guests here have. */
export const LONG_MODE_SEGMENTS: Readonly<Record<string, number>> = {
  GUEST_CS_SELECTOR: 8,
  GUEST_CS_AR_BYTES: 0xa09b,
  GUEST_CS_LIMIT: 0xffff_ffff,
  GUEST_TR_SELECTOR: 0x18,
  GUEST_TR_AR_BYTES: 0x8b,
  GUEST_TR_LIMIT: 0x67,
  GUEST_LDTR_AR_BYTES: AR.UNUSABLE,
  ...Object.fromEntries(
    ['SS', 'DS', 'ES', 'FS', 'GS'].flatMap((name) => [
      [`GUEST_${name}_SELECTOR`, 0x10],
      [`GUEST_${name}_AR_BYTES`, 0xc093],
      [`GUEST_${name}_LIMIT`, 0xffff_ffff],
    ]),
  ),
};

// A processor with a register file and memory, but no decoder, MMU or devices: linear addresses are physical ones.
export class BareProcessor implements VmxProcessor {
  readonly memory = new PhysicalMemory({ ramBytes: 1 << 20, privateBytes: 1 << 16 });
  readonly state = new CpuState(this.memory);
  readonly trace = new Recorder();
  intercepts: Intercepts | null = null;
  readonly pdptes = new BigUint64Array(4);
  readonly physicalAddressBits = 39;
  readonly linearAddressBits = 48;
  delivering: DeliveredEvent | null = null;
  readonly msrs = new Map<number, bigint>();
  flushes = 0;
  vector = 0x20;
  readonly mem = {
    read32: (at: bigint) => this.memory.view.getUint32(this.memory.offset(Number(at), 4), true),
    read64: (at: bigint) => this.memory.view.getBigUint64(this.memory.offset(Number(at), 8), true),
    write32: (at: bigint, value: number) => this.memory.view.setUint32(this.memory.offset(Number(at), 4), value, true),
    write64: (at: bigint, value: bigint) => this.memory.view.setBigUint64(this.memory.offset(Number(at), 8), value, true),
  };
  operandAddress(insn: Instruction): bigint {
    return insn.disp;
  }
  debugChanged(): void {}
  eventsChanged(): void {}
  flushTranslations(): void {
    this.flushes++;
  }
  readMsr(index: number): bigint {
    const value = this.msrs.get(index);
    if (value === undefined) throw new Fault(VECTOR.GP, 0);
    return value;
  }
  writeMsr(index: number, value: bigint): void {
    if (!this.msrs.has(index)) throw new Fault(VECTOR.GP, 0);
    this.msrs.set(index, value);
  }
  acknowledgeInterrupt(): number {
    return this.vector;
  }
}

export const VMXON_REGION = 0x1000;
export const VMCS_REGION = 0x2000;
export const OTHER_VMCS = 0x3000;
export const IO_BITMAP_A = 0x4000;
export const IO_BITMAP_B = 0x5000;
export const MSR_BITMAP = 0x6000;
export const VAPIC = 0x7000;
export const MSR_AREA = 0x8000;
export const EPT_ROOT = 0x9000;
export const HOST_RIP = 0xffff_8000_0000_1000n;

export const { mask: C } = CPU_BASED;
export const { mask: S } = SECONDARY;
export const ALL_ONES = 0xffff_ffff_ffff_ffffn;

/** A bare processor in 64-bit root operation with a VMCS that passes every check: a 64-bit guest at CPL 0 under EPT. */
export class Bench {
  readonly cpu = new BareProcessor();
  readonly vmx = new VmxUnit(this.cpu);

  constructor() {
    const { state, memory } = this.cpu;
    state.set64(OFFSET.CR0, 0x8000_0031n);
    state.set64(OFFSET.CR4, BigInt(CR4.PAE | CR4.VMXE));
    state.set64(OFFSET.EFER, BigInt(EFER.LME | EFER.LMA));
    state.setSegRights(SEG.CS, 0xa09b);
    state.setSegRights(SEG.SS, 0xc093);
    writeFlags(state, 2);
    for (const page of [VMXON_REGION, VMCS_REGION, OTHER_VMCS]) memory.view.setUint32(memory.offset(page), REVISION_ID, true);
    expect(this.vmx.vmxon(VMXON_REGION)).toBe('succeed');
    this.prepare(VMCS_REGION);
  }

  prepare(address: number): void {
    expect(this.vmx.vmclear(address)).toBe('succeed');
    expect(this.vmx.vmptrld(address)).toBe('succeed');
    this.write({
      PIN_BASED_VM_EXEC_CONTROL: adjust(0, CAPABILITY.pin),
      CPU_BASED_VM_EXEC_CONTROL: adjust(C.ACTIVATE_SECONDARY_CONTROLS | C.USE_IO_BITMAPS | C.USE_MSR_BITMAPS, CAPABILITY.cpuBased),
      SECONDARY_VM_EXEC_CONTROL: S.ENABLE_EPT,
      VM_EXIT_CONTROLS: adjust(EXIT.mask.HOST_ADDR_SPACE_SIZE | EXIT.mask.SAVE_DEBUG_CONTROLS, CAPABILITY.exit),
      VM_ENTRY_CONTROLS: adjust(ENTRY.mask.IA32E_MODE | ENTRY.mask.LOAD_DEBUG_CONTROLS, CAPABILITY.entry),
      IO_BITMAP_A,
      IO_BITMAP_B,
      MSR_BITMAP,
      EPT_POINTER: EPT_ROOT | 0x1e,
      VMCS_LINK_POINTER: ALL_ONES,
      HOST_CR0: 0x8000_0031,
      HOST_CR4: CR4.PAE | CR4.VMXE,
      HOST_CR3: 0xa000,
      HOST_RIP,
      HOST_RSP: 0xffff_8000_0000_8000n,
      HOST_CS_SELECTOR: 8,
      HOST_SS_SELECTOR: 0x10,
      HOST_DS_SELECTOR: 0x10,
      HOST_ES_SELECTOR: 0x10,
      HOST_TR_SELECTOR: 0x40,
      GUEST_CR0: 0x8000_0031,
      GUEST_CR4: CR4.PAE | CR4.VMXE,
      GUEST_CR3: 0xb000,
      GUEST_DR7: 0x400,
      GUEST_RIP: 0x10_0000,
      GUEST_RSP: 0x20_0000,
      GUEST_RFLAGS: 2,
      ...LONG_MODE_SEGMENTS,
    });
  }

  write(fields: Partial<Record<FieldName, number | bigint>> & Record<string, number | bigint>): void {
    for (const [name, value] of Object.entries(fields)) this.vmx.vmwrite(FIELD[name as FieldName], BigInt(value));
  }
  read(name: FieldName): bigint {
    return this.vmx.vmread(FIELD[name]);
  }
  /** Sets (or clears) bits of a 32-bit field. */
  set(name: FieldName, bits: number): void {
    this.write({ [name]: BigInt(Number(this.read(name)) | bits) & 0xffff_ffffn });
  }
  clear(name: FieldName, bits: number): void {
    this.write({ [name]: this.read(name) & 0xffff_ffffn & ~BigInt(bits >>> 0) });
  }
  unrestricted(): void {
    this.set('SECONDARY_VM_EXEC_CONTROL', S.UNRESTRICTED_GUEST);
  }
  /** A virtual-8086 guest that passes every check. */
  v86(): void {
    this.notLong();
    this.write({ GUEST_RFLAGS: FLAG.VM | 2, GUEST_RIP: 0x100 });
    for (const name of ['CS', 'SS', 'DS', 'ES', 'FS', 'GS'])
      this.write({
        [`GUEST_${name}_SELECTOR`]: 0x100,
        [`GUEST_${name}_BASE`]: 0x1000,
        [`GUEST_${name}_AR_BYTES`]: 0xf3,
        [`GUEST_${name}_LIMIT`]: 0xffff,
      });
  }
  /** A 32-bit guest with two-level paging. */
  notLong(): void {
    this.clear('VM_ENTRY_CONTROLS', ENTRY.mask.IA32E_MODE);
    this.write({ GUEST_CR4: CR4.VMXE, GUEST_CS_AR_BYTES: 0xc09b });
  }
  inject(info: number, length = 0, errorCode = 0): void {
    this.write({ VM_ENTRY_INTR_INFO_FIELD: (0x8000_0000 | info) >>> 0, VM_ENTRY_INSTRUCTION_LEN: length, VM_ENTRY_EXCEPTION_ERROR_CODE: errorCode });
  }
  failedClauses(): string[] {
    return this.cpu.trace
      .of('vmx')
      .filter((event) => event.what === 'entry_failed')
      .map((event) => event.detail ?? '');
  }
}

export const event = (type: number, vector: number): number => (type << 8) | vector;
export const DF_BIT = INTR_INFO.mask.DELIVER_CODE;

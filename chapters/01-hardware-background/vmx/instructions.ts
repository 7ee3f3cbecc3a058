// # VMX instructions in machine code
//
// The ten-odd instructions are thin: each finds its operands, calls the method of the same name, and turns the result into flags. What they share is
// the ladder of refusals at the top. Outside VMX operation the instruction does not exist: #UD. In the guest it belongs to the hypervisor: a VM exit,
// *before* the privilege check, so that even a guest's user program exits -- a hypervisor which offers VMX to its guest has to inject
// the #GP itself, as `nested_vmx_check_permission()` does. In root operation outside ring 0: #GP.

import { readFlags, writeFlags } from '../engine/flags.ts';
import { undefinedOpcode, VmExit } from '../faults.ts';
import { type Instruction, NONE, RIP_RELATIVE } from '../isa/instruction.ts';
import type { SystemOp } from '../isa/system-ops.ts';
import { ARITHMETIC_FLAGS, CR4, FLAG, OFFSET, SLOT } from '../state.ts';
import { EXIT_REASON, VM_INSTRUCTION_ERROR } from './exit-reasons.ts';
import { fieldBytes } from './vmcs.ts';
import type { VmxStatus, VmxUnit } from './vmx.ts';

/** The VMX instructions, and the reason of the exit that each causes in non-root operation. VMFUNC and VMMCALL are not offered. */
const REASON_OF = {
  vmcall: EXIT_REASON.VMCALL,
  vmclear: EXIT_REASON.VMCLEAR,
  vmlaunch: EXIT_REASON.VMLAUNCH,
  vmptrld: EXIT_REASON.VMPTRLD,
  vmptrst: EXIT_REASON.VMPTRST,
  vmread: EXIT_REASON.VMREAD,
  vmresume: EXIT_REASON.VMRESUME,
  vmwrite: EXIT_REASON.VMWRITE,
  vmxoff: EXIT_REASON.VMOFF,
  vmxon: EXIT_REASON.VMON,
  invept: EXIT_REASON.INVEPT,
  invvpid: EXIT_REASON.INVVPID,
} as const satisfies Partial<Record<SystemOp, number>>;
type VmxOp = keyof typeof REASON_OF;

const WITHOUT_OPERANDS: ReadonlySet<VmxOp> = new Set<VmxOp>(['vmcall', 'vmlaunch', 'vmresume', 'vmxoff']);
const TWO_REGISTERS: ReadonlySet<VmxOp> = new Set<VmxOp>(['vmread', 'vmwrite']);
const isVmxOp = (op: SystemOp): op is VmxOp => op in REASON_OF;
const ADDRESS_SIZE = { 2: 0, 4: 1, 8: 2 } as const;

// ## What the exit tells about operands
//
// An instruction with a ModRM operand can name almost any address, and the hypervisor that emulates it needs that address. It is not computed for
// it: the instruction-information field holds the *form* of the operand, and the qualification the displacement; registers and segment
// bases are in the guest state anyhow. The layout is one for all such instructions, with a few variations in which bits are meaningful.

/** Where an operand is: a register, or segment, base, index and scale. */
export function operandInfo(insn: Instruction): number {
  const size = ADDRESS_SIZE[insn.addressSize] << 7;
  if (insn.mod === 3) return size | (1 << 10) | (insn.rm << 3);
  const index = insn.index === NONE ? 1 << 22 : (insn.index << 18) | insn.scale;
  const base = insn.base === NONE || insn.base === RIP_RELATIVE ? 1 << 27 : insn.base << 23;
  return size | (insn.segment << 15) | index | base;
}

/** The displacement as the qualification reports it; of a RIP-relative operand, the whole address. */
function displacement(unit: VmxUnit, insn: Instruction): bigint {
  if (insn.mod === 3) return 0n;
  const next = insn.base === RIP_RELATIVE ? unit.cpu.state.slot(SLOT.NEXT_RIP) : 0n;
  return (next + insn.disp) & (insn.addressSize === 8 ? 0xffff_ffff_ffff_ffffn : insn.addressSize === 4 ? 0xffff_ffffn : 0xffffn);
}

/** Instruction information of a VMX instruction: the operand, and the register operand in bits 31:28. */
const instructionInfo = (op: VmxOp, insn: Instruction): number =>
  (operandInfo(insn) | (TWO_REGISTERS.has(op) || op === 'invept' || op === 'invvpid' ? insn.reg << 28 : 0)) >>> 0;

// @clause vmx.exit.vmx-instruction
function leaveGuest(unit: VmxUnit, op: VmxOp, insn: Instruction): never {
  const operands = !WITHOUT_OPERANDS.has(op);
  throw new VmExit(REASON_OF[op], operands ? displacement(unit, insn) : 0n, {
    instructionLength: insn.length,
    ...(operands && { instructionInfo: instructionInfo(op, insn) }),
  });
}

/** All six arithmetic flags are cleared; CF or ZF says how the instruction failed. */
function report(unit: VmxUnit, status: VmxStatus): void {
  const { state } = unit.cpu;
  const flag = status === 'failInvalid' ? FLAG.CF : status === 'failValid' ? FLAG.ZF : 0;
  // @clause vmx.insn.flags
  writeFlags(state, ((readFlags(state) & ~ARITHMETIC_FLAGS) | flag) >>> 0);
}

const WORD = 0xffff_ffffn;
const ADDRESS_BYTES = 8;

/**
 * The 64-bit physical address in memory that VMXON, VMCLEAR and VMPTRLD take. Beyond 2^53 the number is inexact, but then it is invalid in any case.
 */
function pointerOperand(unit: VmxUnit, insn: Instruction): number {
  const { cpu } = unit;
  const pointer = cpu.mem.read64(cpu.operandAddress(insn, ADDRESS_BYTES, 'read'));
  return Number(pointer >> 32n) * 2 ** 32 + Number(pointer & WORD);
}

/** Executes VMXON ... INVVPID, VMCALL, VMFUNC and VMMCALL as instructions. */
export function executeVmx(unit: VmxUnit, op: SystemOp, insn: Instruction): void {
  const { state } = unit.cpu;
  // @clause vmx.insn.not-operating-ud
  if (!isVmxOp(op)) throw undefinedOpcode();
  if (!unit.operating && op !== 'vmxon') throw undefinedOpcode();
  if (op === 'vmxon' && (state.low32(OFFSET.CR4) & CR4.VMXE) === 0) throw undefinedOpcode();
  if (!WITHOUT_OPERANDS.has(op) && !TWO_REGISTERS.has(op) && insn.mod === 3) throw undefinedOpcode();
  if (op !== 'vmcall' || !unit.nonRoot) unit.requireMode();
  if (unit.nonRoot) leaveGuest(unit, op, insn);
  if (op !== 'vmxon') unit.requireRoot();

  const status = perform(unit, op, insn);
  if (status !== null) report(unit, status);
}

/** The instruction itself, in root operation. Null: it has changed worlds, and the flags are no longer its own. */
function perform(unit: VmxUnit, op: VmxOp, insn: Instruction): VmxStatus | null {
  const { cpu } = unit;
  switch (op) {
    case 'vmxon':
      unit.requireVmxonPrivilege();
      return unit.vmxon(pointerOperand(unit, insn));
    case 'vmxoff':
      return unit.vmxoff();
    case 'vmcall':
      return unit.fail(VM_INSTRUCTION_ERROR.VMCALL_IN_VMX_ROOT_OPERATION);
    case 'vmclear':
      return unit.vmclear(pointerOperand(unit, insn));
    case 'vmptrld':
      return unit.vmptrld(pointerOperand(unit, insn));
    case 'vmptrst':
      cpu.mem.write64(cpu.operandAddress(insn, ADDRESS_BYTES, 'write'), unit.vmptrst());
      return 'succeed';
    case 'vmread':
      return vmread(unit, insn);
    case 'vmwrite':
      return vmwrite(unit, insn);
    case 'vmlaunch':
    case 'vmresume': {
      const outcome = unit.enter(op === 'vmresume', 'x86');
      return outcome === 'failInvalid' || outcome === 'failValid' ? outcome : null;
    }
    case 'invept':
    case 'invvpid':
      return invalidate(unit, op, insn);
  }
}

// In 64-bit mode VMREAD and VMWRITE move 64 bits, whatever the prefixes; elsewhere 32, and then the register's upper half is cleared. A narrow field
// is extended with zeros.

function vmread(unit: VmxUnit, insn: Instruction): VmxStatus {
  const { cpu, vmcs } = unit;
  const { state } = cpu;
  const wide = insn.codeSize === 8;
  const encoding = fieldOperand(unit, insn.reg, wide);
  if (!vmcs.current) return 'failInvalid';
  const at = unit.readableCell(encoding);
  if (at < 0) return unit.fail(-at);
  const low = vmcs.read32(at);
  const high = wide && fieldBytes(encoding) === 8 ? vmcs.high32(at) : 0;
  if (insn.mod === 3) {
    state.u32[2 * insn.rm] = low;
    state.u32[2 * insn.rm + 1] = high;
  } else if (wide) cpu.mem.write64(cpu.operandAddress(insn, 8, 'write'), (BigInt(high) << 32n) | BigInt(low));
  else cpu.mem.write32(cpu.operandAddress(insn, 4, 'write'), low);
  return 'succeed';
}

function vmwrite(unit: VmxUnit, insn: Instruction): VmxStatus {
  const { cpu, vmcs } = unit;
  const wide = insn.codeSize === 8;
  let value: bigint;
  if (insn.mod === 3) value = cpu.state.slot(insn.rm);
  else value = wide ? cpu.mem.read64(cpu.operandAddress(insn, 8, 'read')) : BigInt(cpu.mem.read32(cpu.operandAddress(insn, 4, 'read')));
  const encoding = fieldOperand(unit, insn.reg, wide);
  if (!vmcs.current) return 'failInvalid';
  const at = unit.writableCell(encoding);
  if (at < 0) return unit.fail(-at);
  unit.writeCell(encoding, at, Number(value & WORD), wide ? Number(value >> 32n) : 0);
  return 'succeed';
}

/** The register that names the field. Bits above 31 must be 0; -1 names no field. */
function fieldOperand(unit: VmxUnit, register: number, wide: boolean): number {
  const { u32 } = unit.cpu.state;
  return wide && u32[2 * register + 1] !== 0 ? -1 : (u32[2 * register] as number);
}

function invalidate(unit: VmxUnit, op: 'invept' | 'invvpid', insn: Instruction): VmxStatus {
  const { cpu } = unit;
  const { state } = cpu;
  const type = insn.codeSize === 8 && state.u32[2 * insn.reg + 1] !== 0 ? -1 : state.slot32(insn.reg);
  const at = cpu.operandAddress(insn, 16, 'read');
  const first = cpu.mem.read64(at);
  const second = cpu.mem.read64(at + 8n);
  const malformed = op === 'invept' ? second !== 0n : first >> 16n !== 0n;
  if (malformed) return unit.fail(VM_INSTRUCTION_ERROR.INVALID_OPERAND_TO_INVEPT_INVVPID);
  return op === 'invept' ? unit.invept(type, first) : unit.invvpid(type, Number(first), second);
}

// # Extended state
//
// The floating-point unit began as a second chip with its own registers, and it is still saved and restored as one block. This processor keeps the
// block, so that systems and hypervisors can switch it between tasks and guests, and executes the instructions that control it.

import type { Cpu } from '../cpu.ts';
import { deviceNotAvailable, generalProtection, undefinedOpcode } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { bytes, layout, u8, u16le, u32le, u64le } from '../layout.ts';
import { ACCESS } from '../mmu/mmu.ts';
import { CR0, OFFSET, SLOT } from '../state.ts';
import { code64, operandAddress, privilegeOf, readOperand, writeRegister } from './segmentation.ts';

/** The FXSAVE image. */
const FxsaveImage = layout(
  'fxsave',
  {
    fcw: u16le(0),
    fsw: u16le(2),
    ftw: u8(4), // abridged: one bit for each register that is not empty
    fop: u16le(6),
    fip: u64le(8),
    fdp: u64le(16),
    mxcsr: u32le(24),
    mxcsr_mask: u32le(28),
    st: bytes(32, 128),
    xmm: bytes(160, 256),
  },
  512,
);

const FCW_RESET = 0x40; // after power-up; FNINIT sets another value
const FCW_INIT = 0x37f;
const MXCSR_RESET = 0x1f80;
const MXCSR_MASK = 0xffff;
const XMM_BYTES_32 = 288; // 32-bit code sees eight XMM registers
const XMM_BYTES_64 = 416;

/** Extended state after power-up. */
export function resetExtendedState(cpu: Cpu): void {
  const { state } = cpu;
  state.fpu.fill(0);
  FxsaveImage.store(state.view, OFFSET.FPU, { fcw: FCW_RESET, ftw: 0xff, mxcsr: MXCSR_RESET, mxcsr_mask: MXCSR_MASK });
}

// @clause x86.exception.device-not-available
function requireFpu(cpu: Cpu): void {
  if (cpu.state.low32(OFFSET.CR0) & (CR0.EM | CR0.TS)) throw deviceNotAvailable();
}

export function fwait({ state }: Cpu): void {
  const both = CR0.MP | CR0.TS;
  if ((state.low32(OFFSET.CR0) & both) === both) throw deviceNotAvailable();
}

export function fninit(cpu: Cpu): void {
  requireFpu(cpu);
  FxsaveImage.store(cpu.state.view, OFFSET.FPU, { fcw: FCW_INIT, fsw: 0, ftw: 0, fop: 0, fip: 0n, fdp: 0n });
}

const word = (cpu: Cpu, offset: number): number => cpu.state.view.getUint16(OFFSET.FPU + offset, true);

function storeWord(cpu: Cpu, insn: Instruction, value: number): void {
  cpu.mmu.write(operandAddress(cpu, insn, 2, true), 2, BigInt(value), privilegeOf(cpu.cpl));
}

export function fnstcw(cpu: Cpu, insn: Instruction): void {
  requireFpu(cpu);
  storeWord(cpu, insn, word(cpu, FxsaveImage.fields.fcw.offset));
}

export function fldcw(cpu: Cpu, insn: Instruction): void {
  requireFpu(cpu);
  const value = readOperand(cpu, insn, 2);
  FxsaveImage.store(cpu.state.view, OFFSET.FPU, { fcw: (value & 0x1f3f) | 0x40 });
}

export function fnstsw(cpu: Cpu, insn: Instruction): void {
  requireFpu(cpu);
  const status = word(cpu, FxsaveImage.fields.fsw.offset);
  if (insn.mod === 3) writeRegister(cpu, SLOT.RAX, 2, BigInt(status));
  else storeWord(cpu, insn, status);
}

// ## The whole block

function imageAddress(cpu: Cpu, insn: Instruction, write: boolean): bigint {
  if (insn.mod === 3) throw undefinedOpcode();
  requireFpu(cpu);
  const at = operandAddress(cpu, insn, 512, write);
  // @clause x86.fxsave.alignment
  if (at & 15n) throw generalProtection();
  cpu.mmu.probe(at, 512, write ? ACCESS.WRITE : ACCESS.READ, privilegeOf(cpu.cpl));
  return at;
}

const used = (cpu: Cpu): number => (code64(cpu) ? XMM_BYTES_64 : XMM_BYTES_32);

export function fxsave(cpu: Cpu, insn: Instruction): void {
  const at = imageAddress(cpu, insn, true);
  for (let i = 0; i < used(cpu); i += 8) {
    cpu.mmu.write(at + BigInt(i), 8, cpu.state.view.getBigUint64(OFFSET.FPU + i, true), privilegeOf(cpu.cpl));
  }
}

export function fxrstor(cpu: Cpu, insn: Instruction): void {
  const at = imageAddress(cpu, insn, false);
  const { mxcsr, mxcsr_mask } = FxsaveImage.fields;
  if (cpu.mmu.read32(at + BigInt(mxcsr.offset), 4, privilegeOf(cpu.cpl)) & ~MXCSR_MASK) throw generalProtection();
  for (let i = 0; i < used(cpu); i += 8) {
    cpu.state.view.setBigUint64(OFFSET.FPU + i, cpu.mmu.read(at + BigInt(i), 8, privilegeOf(cpu.cpl)), true);
  }
  mxcsr_mask.set(cpu.state.view, OFFSET.FPU, MXCSR_MASK);
}

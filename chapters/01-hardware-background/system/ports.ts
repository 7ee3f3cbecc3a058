// # Ports
//
// The second address space: 65,536 bytes, reached by IN and OUT only. In protected mode the right to use it is given by IOPL to a whole privilege
// level, or by the bitmap in the TSS to single ports. Under a hypervisor there is another bitmap, which is asked after the first.

import type { Cpu } from '../cpu.ts';
import { generalProtection, type VmExit } from '../faults.ts';
import type { IoAccess } from '../intercepts.ts';
import type { Instruction } from '../isa/instruction.ts';
import { ACCESS, PRIVILEGE } from '../mmu/mmu.ts';
import { AR, CR0, FLAG, OFFSET, SEG, SLOT } from '../state.ts';
import { portBreakpoints } from './debug.ts';
import { iopl, linearAddress, privilegeOf, U16, U32, U64, writeRegister } from './segmentation.ts';
import { is16BitTss, Tss32 } from './tss.ts';

/** The devices behind the ports. Widths are 1, 2 or 4 bytes; values are unsigned. */
export interface PortBus {
  read(port: number, bytes: number): number;
  write(port: number, bytes: number, value: number): void;
}

// @clause x86.io.bitmap
/** May the current program use these ports? @throws #GP(0). */
function checkPermission(cpu: Cpu, port: number, bytes: number): void {
  const { state } = cpu;
  if ((state.low32(OFFSET.CR0) & CR0.PE) === 0) return;
  const v86 = (state.get32(OFFSET.RFLAGS) & FLAG.VM) !== 0;
  if (!v86 && cpu.cpl <= iopl(cpu)) return;
  const limit = state.segLimit(SEG.TR);
  const at = Tss32.fields.ioMap.offset;
  if (state.segRights(SEG.TR) & AR.UNUSABLE || is16BitTss(cpu) || limit < at + 1) throw generalProtection();
  const base = state.segBase(SEG.TR);
  const map = cpu.mmu.read32(cpu.wrapLinear(base + BigInt(at)), 2, PRIVILEGE.SYSTEM);
  // Two bytes are read always, because an access may straddle them. That is why the bitmap needs one byte of ones after its end.
  const entry = map + (port >> 3);
  if (entry + 1 > limit) throw generalProtection();
  const word = cpu.mmu.read32(cpu.wrapLinear(base + BigInt(entry)), 2, PRIVILEGE.SYSTEM);
  if ((word >> (port & 7)) & ((1 << bytes) - 1)) throw generalProtection();
}

type Width = 1 | 2 | 4;
const portOf = (cpu: Cpu, insn: Instruction): number => (insn.immediate ? Number(insn.imm & 0xffn) : cpu.state.slot32(SLOT.RDX) & 0xffff);

function ask(cpu: Cpu, insn: Instruction, port: number, direction: 'in' | 'out'): VmExit | null {
  checkPermission(cpu, port, insn.bytes);
  if (!cpu.intercepts) return null;
  const access: IoAccess = { port, size: insn.bytes as Width, direction, string: false, rep: false, immediate: insn.immediate };
  return cpu.intercepts.io(access, insn.length);
}

function trapIfWatched(cpu: Cpu, port: number, bytes: number): void {
  const hit = portBreakpoints(cpu, port, bytes);
  if (hit) cpu.trapAfter(hit);
}

export function input(cpu: Cpu, insn: Instruction): void {
  const port = portOf(cpu, insn);
  if (cpu.leaves(ask(cpu, insn, port, 'in'))) return;
  // @clause x86.io.accumulator
  writeRegister(cpu, SLOT.RAX, insn.bytes, BigInt(readPort(cpu, port, insn.bytes)));
  trapIfWatched(cpu, port, insn.bytes);
}

// @clause x86.io.width
export function output(cpu: Cpu, insn: Instruction): void {
  const port = portOf(cpu, insn);
  if (cpu.leaves(ask(cpu, insn, port, 'out'))) return;
  const value = cpu.state.slot32(SLOT.RAX);
  cpu.ports.write(port, insn.bytes, insn.bytes === 4 ? value : insn.bytes === 2 ? value & 0xffff : value & 0xff);
  trapIfWatched(cpu, port, insn.bytes);
}

const readPort = (cpu: Cpu, port: number, bytes: number): number => {
  const value = cpu.ports.read(port, bytes);
  return (bytes === 4 ? value : bytes === 2 ? value & 0xffff : value & 0xff) >>> 0;
};

// ## Strings
//
// INS and OUTS move one element a call; while a repeat count remains, the instruction is its own successor, so an interrupt can come between two
// elements. INS tests that it may write to memory *before* it reads the port: the read may have taken a byte from a device, and there
// is no putting it back.

const maskOf = (size: 2 | 4 | 8): bigint => (size === 8 ? U64 : size === 4 ? U32 : U16);

// @clause x86.io.string
/** The common frame: repeat count, addresses, intercept, advance. `move` does the transfer at a linear address. */
function stringIo(cpu: Cpu, insn: Instruction, direction: 'in' | 'out', move: (linear: bigint, port: number) => void): void {
  const { state } = cpu;
  const repeated = insn.rep || insn.repne;
  const mask = maskOf(insn.addressSize);
  const count = repeated ? state.slot(SLOT.RCX) & mask : 1n;
  const port = state.slot32(SLOT.RDX) & 0xffff;
  checkPermission(cpu, port, insn.bytes);
  if (count === 0n) return;
  const index = direction === 'in' ? SLOT.RDI : SLOT.RSI;
  // @clause x86.io.string-segment
  const segment = direction === 'in' ? SEG.ES : insn.segment;
  const offset = state.slot(index) & mask;
  const linear = linearAddress(cpu, segment, offset, insn.bytes, direction === 'in');
  if (cpu.intercepts) {
    const addressSize = (insn.addressSize * 8) as 16 | 32 | 64;
    const size = insn.bytes as Width;
    const access: IoAccess = { port, size, direction, string: true, rep: repeated, immediate: false, linear, addressSize, segment };
    if (cpu.leaves(cpu.intercepts.io(access, insn.length))) return;
  }
  move(linear, port);
  const step = BigInt(state.get32(OFFSET.RFLAGS) & FLAG.DF ? -insn.bytes : insn.bytes);
  writeRegister(cpu, index, insn.addressSize, (offset + step) & mask);
  if (repeated) {
    writeRegister(cpu, SLOT.RCX, insn.addressSize, count - 1n);
    if (count > 1n) state.setSlot(SLOT.NEXT_RIP, state.slot(SLOT.RIP));
  }
  trapIfWatched(cpu, port, insn.bytes);
}

export function inputString(cpu: Cpu, insn: Instruction): void {
  stringIo(cpu, insn, 'in', (linear, port) => {
    // @clause x86.io.ins-checks-memory-first
    cpu.mmu.probe(linear, insn.bytes, ACCESS.WRITE, privilegeOf(cpu.cpl));
    cpu.mmu.write(linear, insn.bytes, BigInt(readPort(cpu, port, insn.bytes)), privilegeOf(cpu.cpl));
  });
}

export function outputString(cpu: Cpu, insn: Instruction): void {
  stringIo(cpu, insn, 'out', (linear, port) => {
    cpu.ports.write(port, insn.bytes, cpu.mmu.read32(linear, insn.bytes, privilegeOf(cpu.cpl)));
  });
}

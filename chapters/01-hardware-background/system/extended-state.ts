// # Extended state
//
// The floating-point unit began as a second chip with its own registers, and it is still saved and restored as one block. Each time a set of registers was
// added there had to be a new instruction to save it, and each system had to learn it: FNSAVE for the x87, FXSAVE for SSE. XSAVE ended that. Its block is made of
// *components*, a register says which of them a system has learnt (XCR0), CPUID says where each lies, and a program saves what a mask asks for.

import type { Cpu } from '../cpu.ts';
import { deviceNotAvailable, Fault, generalProtection, undefinedOpcode, VECTOR } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { ACCESS } from '../mmu/mmu.ts';
import { CR0, CR4, FLAG, OFFSET, SLOT } from '../state.ts';
import { EXIT_REASON } from '../vmx/exit-reasons.ts';
import { FxsaveImage, readFxImage, writeFxImage } from './fx-image.ts';
import { code64, join, operandAddress, privilegeOf } from './segmentation.ts';

const FCW_RESET = 0x40; // after power-up; FNINIT sets another value
export const FCW_INIT = 0x37f;
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
export function requireFpu(cpu: Cpu): void {
  if (cpu.state.low32(OFFSET.CR0) & (CR0.EM | CR0.TS)) throw deviceNotAvailable();
}

// ## FXSAVE

/** Alignment is checked for this program: ring 3, and both AM and AC are set. */
export const alignmentChecked = ({ state, cpl }: Cpu): boolean =>
  cpl === 3 && (state.low32(OFFSET.CR0) & CR0.AM) !== 0 && (state.get32(OFFSET.RFLAGS) & FLAG.AC) !== 0;

/** The address of an image, which must be a multiple of `unit`. */
function alignedAddress(cpu: Cpu, insn: Instruction, unit: bigint, write: boolean, bytes = 4): bigint {
  // Alignment is looked at before the question whether the segment may be written.
  const at = operandAddress(cpu, insn, bytes, false);
  if (alignmentChecked(cpu) && at & 3n) throw new Fault(VECTOR.AC, 0);
  if (write) operandAddress(cpu, insn, bytes, true);
  // @clause x86.fxsave.alignment
  if (at % unit) throw generalProtection();
  return at;
}
/** The same of an image that must be accessible to its end. The last byte is asked for first, and a fault says so. */
function imageAddress(cpu: Cpu, insn: Instruction, unit: bigint, bytes: number, write: boolean): bigint {
  const at = alignedAddress(cpu, insn, unit, write);
  const access = write ? ACCESS.WRITE : ACCESS.READ;
  cpu.mmu.probe(operandAddress(cpu, insn, 1, write, bytes - 1), 1, access, privilegeOf(cpu.cpl));
  cpu.mmu.probe(at, 1, access, privilegeOf(cpu.cpl));
  return at;
}

const xmmEnd = (cpu: Cpu): number => (code64(cpu) ? XMM_BYTES_64 : XMM_BYTES_32);

/** Without REX.W the pointers are a selector and an offset of 32 bits each, and the selectors of this processor are always 0. */
function narrowPointers(image: Uint8Array, insn: Instruction): void {
  if (insn.operandSize === 8) return;
  image.fill(0, 12, 16);
  image.fill(0, 20, 24);
}
/** On the way in, the address of an instruction is made canonical. */
function pointersOf(image: Uint8Array, insn: Instruction): void {
  narrowPointers(image, insn);
  const view = new DataView(image.buffer, image.byteOffset);
  const { fip } = FxsaveImage.fields;
  fip.set(view, 0, BigInt.asUintN(64, BigInt.asIntN(48, fip.get(view, 0))));
}

function storeBytes(cpu: Cpu, at: bigint, image: Uint8Array, from: number, to: number): void {
  const view = new DataView(image.buffer, image.byteOffset);
  for (let i = from; i < to; i += 8) cpu.mmu.write(at + BigInt(i), 8, view.getBigUint64(i, true), privilegeOf(cpu.cpl));
}
function loadBytes(cpu: Cpu, at: bigint, image: Uint8Array, from: number, to: number): void {
  const view = new DataView(image.buffer, image.byteOffset);
  for (let i = from; i < to; i += 8) view.setBigUint64(i, cpu.mmu.read(at + BigInt(i), 8, privilegeOf(cpu.cpl)), true);
}
const mxcsrOf = (image: Uint8Array): number => FxsaveImage.fields.mxcsr.get(new DataView(image.buffer, image.byteOffset), 0);

// @clause fxsave.image.layout
export function fxsave(cpu: Cpu, insn: Instruction): void {
  requireFpu(cpu);
  const at = imageAddress(cpu, insn, 16n, 512, true);
  const image = readFxImage(cpu.state);
  narrowPointers(image, insn);
  storeBytes(cpu, at, image, 0, xmmEnd(cpu));
}

export function fxrstor(cpu: Cpu, insn: Instruction): void {
  requireFpu(cpu);
  const at = imageAddress(cpu, insn, 16n, 512, false);
  const image = new Uint8Array(xmmEnd(cpu));
  loadBytes(cpu, at, image, 0, image.length);
  // @clause x86.sse.mxcsr-reserved
  if (mxcsrOf(image) & ~MXCSR_MASK) throw generalProtection();
  pointersOf(image, insn);
  restoreImage(cpu, image);
}
function restoreImage(cpu: Cpu, image: Uint8Array): void {
  const view = new DataView(image.buffer, image.byteOffset);
  const { fop, mxcsr_mask } = FxsaveImage.fields;
  fop.set(view, 0, fop.get(view, 0) & 0x7ff);
  image[5] = 0;
  writeFxImage(cpu.state, image);
  mxcsr_mask.set(cpu.state.view, OFFSET.FPU, MXCSR_MASK);
}

// ## XSAVE
//
// ```
//    0 +-----------------------------+
//      | x87, MXCSR, XMM: as FXSAVE  |
//  512 +-----------------------------+
//      | XSTATE_BV, XCOMP_BV, zeros  |  which components are in the block
//  576 +-----------------------------+
//      | further components          |  this processor has none
//      +-----------------------------+
// ```
//
// A component that is in its initial state need not be stored, only marked as absent; XRSTOR then makes it initial. That is what makes saving a
// program that never touched a vector register cheap.

/** Components, as bits of XCR0 and XSTATE_BV. */
const COMPONENT = { X87: 1, SSE: 2 } as const;
export const XCR0_SUPPORTED = COMPONENT.X87 | COMPONENT.SSE;
/** Bytes of the block with all components. */
export const XSAVE_BYTES = 576;
const HEADER = 512;
const X87_PARTS = [
  [0, 24],
  [32, 160],
] as const;
const MXCSR_PART = [24, 32] as const;
const XMM = 160;

// @clause x86.xsave.enable
function requireXsave(cpu: Cpu): void {
  if (!(cpu.state.low32(OFFSET.CR4) & CR4.OSXSAVE)) throw undefinedOpcode();
  if (cpu.state.low32(OFFSET.CR0) & CR0.TS) throw deviceNotAvailable();
}
/** The components that the program asks for, as far as there are any. */
const requested = ({ state }: Cpu): number => state.slot32(SLOT.RAX) & state.low32(OFFSET.XCR0);

const isZero = (image: Uint8Array, from: number, to: number): boolean => image.subarray(from, to).every((byte) => byte === 0);
/** Components that are not in their initial state. */
function inUse(image: Uint8Array): number {
  const control = new DataView(image.buffer).getUint16(0, true);
  const x87 = control !== FCW_INIT || !isZero(image, 2, 24) || !isZero(image, 32, XMM);
  return (x87 ? COMPONENT.X87 : 0) | (isZero(image, XMM, XMM_BYTES_64) ? 0 : COMPONENT.SSE);
}

// @clause x86.xsave.components
// @clause x86.xsaveopt.initial
/** XSAVE; with `optimized`, XSAVEOPT, which leaves out what is in its initial state. */
export function xsave(cpu: Cpu, insn: Instruction, optimized = false): void {
  requireXsave(cpu);
  const wanted = requested(cpu);
  const at = imageAddress(cpu, insn, 64n, XSAVE_BYTES, true);
  const privilege = privilegeOf(cpu.cpl);
  const image = readFxImage(cpu.state);
  const used = inUse(image);
  narrowPointers(image, insn);
  const stored = optimized ? wanted & used : wanted;
  if (stored & COMPONENT.X87) for (const [from, to] of X87_PARTS) storeBytes(cpu, at, image, from, to);
  if (wanted & COMPONENT.SSE) storeBytes(cpu, at, image, ...MXCSR_PART);
  if (stored & COMPONENT.SSE) storeBytes(cpu, at, image, XMM, xmmEnd(cpu));
  // The marks of components that were not asked for stay.
  const marks = cpu.mmu.read(at + BigInt(HEADER), 8, privilege);
  cpu.mmu.write(at + BigInt(HEADER), 8, (marks & ~BigInt(wanted)) | BigInt(wanted & used), privilege);
}

// @clause x86.xrstor.initial
export function xrstor(cpu: Cpu, insn: Instruction): void {
  requireXsave(cpu);
  const wanted = requested(cpu);
  const { state } = cpu;
  const privilege = privilegeOf(cpu.cpl);
  const at = alignedAddress(cpu, insn, 64n, false, 4); // the segment's limit comes before the alignment
  // The header must be there first, and in it the reserved words; then the first thing that is asked for; then the header is judged.
  cpu.mmu.probe(operandAddress(cpu, insn, 1, false, HEADER + 8), 1, ACCESS.READ, privilege);
  if (wanted) cpu.mmu.probe(at + BigInt(wanted & COMPONENT.X87 ? 0 : MXCSR_PART[0]), 1, ACCESS.READ, privilege);
  const header = new Uint8Array(24);
  loadBytes(cpu, operandAddress(cpu, insn, 1, false, HEADER), header, 0, header.length);
  const marks = new DataView(header.buffer).getBigUint64(0, true);
  // @clause x86.xrstor.checks
  if (marks & ~state.get64(OFFSET.XCR0) || !isZero(header, 8, 24)) throw generalProtection();
  const present = Number(marks & 3n);
  const image = readFxImage(state);
  // What is not asked for, or not marked, is not read.
  const take = (from: number, to: number, there: boolean): void => {
    if (there) loadBytes(cpu, at, image, from, to);
    else image.fill(0, from, to);
  };
  if (wanted & COMPONENT.X87) {
    for (const [from, to] of X87_PARTS) take(from, to, (present & COMPONENT.X87) !== 0);
    if (present & COMPONENT.X87) pointersOf(image, insn);
    else new DataView(image.buffer).setUint16(0, FCW_INIT, true);
  }
  if (wanted & COMPONENT.SSE) {
    take(...MXCSR_PART, true); // marked or not
    // @clause x86.xrstor.checks
    if (mxcsrOf(image) & ~MXCSR_MASK) throw generalProtection();
    take(XMM, xmmEnd(cpu), (present & COMPONENT.SSE) !== 0);
  }
  restoreImage(cpu, image);
}

// ## XCR0

// @clause x86.xsave.xcr0
export function xsetbv(cpu: Cpu, insn: Instruction): void {
  const { state } = cpu;
  if (!(state.low32(OFFSET.CR4) & CR4.OSXSAVE)) throw undefinedOpcode();
  cpu.intercepts?.instruction(EXIT_REASON.XSETBV, insn.length);
  const value = join(state.slot32(SLOT.RDX), state.slot32(SLOT.RAX));
  if (cpu.cpl !== 0 || state.slot32(SLOT.RCX) !== 0) throw generalProtection();
  if (!(value & BigInt(COMPONENT.X87)) || value & ~BigInt(XCR0_SUPPORTED)) throw generalProtection();
  state.set64(OFFSET.XCR0, value);
}

export function xgetbv(cpu: Cpu): void {
  const { state } = cpu;
  if (!(state.low32(OFFSET.CR4) & CR4.OSXSAVE)) throw undefinedOpcode();
  if (state.slot32(SLOT.RCX) !== 0) throw generalProtection();
  const value = state.get64(OFFSET.XCR0);
  state.setSlot(SLOT.RAX, value & 0xffffffffn);
  state.setSlot(SLOT.RDX, value >> 32n);
}

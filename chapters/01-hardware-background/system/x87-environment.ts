// # The x87's own state
//
// Before FXSAVE there was FNSAVE, and for the unit without its registers, FNSTENV. Their layouts are as old as they are: one for 16-bit code and
// one for 32-bit code; and in each of them two, because in real mode a pointer is not a selector and an offset but one address. What takes 11 bits is
// fitted into whatever was left over.

import type { Cpu } from '../cpu.ts';
import { Fault, VECTOR } from '../faults.ts';
import type { Instruction } from '../isa/instruction.ts';
import { ACCESS } from '../mmu/mmu.ts';
import { CR0, OFFSET } from '../state.ts';
import { alignmentChecked, FCW_INIT, requireFpu } from './extended-state.ts';
import { controlWord, FxsaveImage, readFxImage, withSummary, writeFxImage } from './fx-image.ts';
import { operandAddress, privilegeOf, protectedMode } from './segmentation.ts';

const PENDING = 0x80;
const ALL_MASKED = 0x3f;
const OPCODE = 0x7ff;
const REGISTER_BYTES = 10;
const ST = FxsaveImage.fields.st.offset;
/** Values of a register's two-bit tag. */
const TAG = { VALID: 0, ZERO: 1, SPECIAL: 2, EMPTY: 3 } as const;

// @clause x87.exception.waiting
/** Raises what an earlier instruction has left pending. */
export function waitForUnit(cpu: Cpu): void {
  requireFpu(cpu);
  const { state } = cpu;
  if (state.low32(OFFSET.CR0) & CR0.NE && (state.u8[OFFSET.FPU + FxsaveImage.fields.fsw.offset] as number) & PENDING) throw new Fault(VECTOR.MF);
}

/** The tag word: two bits for each physical register, made up from what it holds. */
function tagWord(image: Uint8Array, fsw: number, abridged: number): number {
  const view = new DataView(image.buffer, image.byteOffset);
  const top = (fsw >> 11) & 7;
  let word = 0;
  for (let physical = 0; physical < 8; physical++) {
    const at = ST + 16 * ((physical - top) & 7);
    word |= ((abridged >> physical) & 1 ? tagOf(view, at) : TAG.EMPTY) << (2 * physical);
  }
  return word;
}
function tagOf(view: DataView, at: number): number {
  const exponent = view.getUint16(at + 8, true) & 0x7fff;
  const integerBit = view.getUint8(at + 7) & 0x80;
  if (exponent === 0 && view.getBigUint64(at, true) === 0n) return TAG.ZERO;
  return exponent === 0 || exponent === 0x7fff || !integerBit ? TAG.SPECIAL : TAG.VALID;
}
const abridge = (word: number): number => [0, 1, 2, 3, 4, 5, 6, 7].reduce((all, n) => all | (((word >> (2 * n)) & 3) === TAG.EMPTY ? 0 : 1 << n), 0);

/** The words of an environment: of 16 bits, or of 32 whose upper halves mean nothing except where the pointers are. */
const environmentBytes = (insn: Instruction): number => (insn.operandSize === 2 ? 14 : 28);

function environment(cpu: Cpu, insn: Instruction, image: Uint8Array): number[] {
  const { fcw, fsw, ftw, fop, fip, fdp } = FxsaveImage.load(new DataView(image.buffer, image.byteOffset));
  const tags = tagWord(image, fsw, ftw);
  const [ip, dp] = [Number(fip & 0xffffffffn), Number(fdp & 0xffffffffn)];
  const segmented = protectedMode(cpu);
  const RESERVED = 0xffff0000;
  const high = (pointer: number): number => pointer >>> 16;
  const low = (pointer: number): number => pointer & 0xffff;
  if (insn.operandSize === 2) {
    // Of a linear address of 20 bits, the upper four stand above the opcode.
    const pointers = segmented ? [low(ip), 0, low(dp), 0] : [low(ip), ((high(ip) & 0xf) << 12) | fop, low(dp), (high(dp) & 0xf) << 12];
    return [fcw, fsw, tags, ...pointers];
  }
  const pointers = segmented
    ? [ip, (fop << 16) >>> 0, dp, RESERVED]
    : [RESERVED + low(ip), ((high(ip) << 12) | fop) >>> 0, RESERVED + low(dp), (high(dp) << 12) >>> 0];
  return [RESERVED + fcw, RESERVED + fsw, RESERVED + tags, ...pointers];
}

function storeEnvironment(cpu: Cpu, insn: Instruction, at: bigint, image: Uint8Array): void {
  const size = environmentBytes(insn) / 7;
  environment(cpu, insn, image).forEach((word, n) => {
    cpu.mmu.write(at + BigInt(size * n), size, BigInt(word), privilegeOf(cpu.cpl));
  });
}

function loadEnvironment(cpu: Cpu, insn: Instruction, at: bigint): Uint8Array<ArrayBuffer> {
  const size = environmentBytes(insn) / 7;
  const privilege = privilegeOf(cpu.cpl);
  const words = Array.from({ length: 7 }, (_, n) => cpu.mmu.read32(at + BigInt(size * n), size, privilege)) as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const image = readFxImage(cpu.state);
  const segmented = protectedMode(cpu);
  const [fcw, fsw, tags, ipLow, ipHigh, dpLow, dpHigh] = words;
  const linear = (lower: number, upper: number): number => ((lower & 0xffff) | ((upper >>> 12) << 16)) >>> 0;
  const [fip, fdp] = segmented ? [ipLow, dpLow] : [linear(ipLow, ipHigh), linear(dpLow, dpHigh)];
  const fop = segmented ? (size === 4 ? ipHigh >>> 16 : 0) : ipHigh;
  FxsaveImage.store(new DataView(image.buffer), 0, {
    fcw: controlWord(fcw & 0xffff),
    fsw: fsw & 0xffff,
    ftw: abridge(tags),
    fop: fop & OPCODE,
    fip: BigInt(fip),
    fdp: BigInt(fdp),
  });
  return image;
}

/** Registers turn with TOP: an image with another status word shows the same physical registers. */
function turned(image: Uint8Array, from: number, to: number): void {
  const registers = image.slice(ST, ST + 128);
  const turn = ((to >> 11) - (from >> 11)) & 7;
  for (let n = 0; n < 8; n++) image.set(registers.subarray(16 * ((n + turn) & 7), 16 * ((n + turn) & 7) + 16), ST + 16 * n);
}
const statusOf = (image: Uint8Array): number => FxsaveImage.fields.fsw.get(new DataView(image.buffer, image.byteOffset), 0);

/** The address of a block: aligned to its words, where that matters, and accessible. The first word is asked for first, then the last byte. */
function blockAddress(cpu: Cpu, insn: Instruction, bytes: number, write: boolean): bigint {
  const word = environmentBytes(insn) / 7;
  const access = write ? ACCESS.WRITE : ACCESS.READ;
  const at = operandAddress(cpu, insn, word, write);
  if (alignmentChecked(cpu) && at % BigInt(word)) throw new Fault(VECTOR.AC, 0);
  cpu.mmu.probe(at, word, access, privilegeOf(cpu.cpl));
  cpu.mmu.probe(operandAddress(cpu, insn, 1, write, bytes - 1), 1, access, privilegeOf(cpu.cpl));
  return at;
}

export function fnstenv(cpu: Cpu, insn: Instruction): void {
  requireFpu(cpu);
  const at = blockAddress(cpu, insn, environmentBytes(insn), true);
  const image = readFxImage(cpu.state);
  storeEnvironment(cpu, insn, at, image);
  const { state } = cpu;
  const { fcw, fsw } = FxsaveImage.fields;
  const masked = fcw.get(state.view, OFFSET.FPU) | ALL_MASKED;
  FxsaveImage.store(state.view, OFFSET.FPU, { fcw: masked, fsw: withSummary(fsw.get(state.view, OFFSET.FPU), masked) });
}

export function fldenv(cpu: Cpu, insn: Instruction): void {
  waitForUnit(cpu);
  const before = statusOf(readFxImage(cpu.state));
  const image = loadEnvironment(cpu, insn, blockAddress(cpu, insn, environmentBytes(insn), false));
  turned(image, before, statusOf(image));
  writeFxImage(cpu.state, image);
}

export function fnsave(cpu: Cpu, insn: Instruction): void {
  requireFpu(cpu);
  const header = environmentBytes(insn);
  const bytes = header + 8 * REGISTER_BYTES;
  const privilege = privilegeOf(cpu.cpl);
  const at = blockAddress(cpu, insn, bytes, true);
  const image = readFxImage(cpu.state);
  const view = new DataView(image.buffer);
  storeEnvironment(cpu, insn, at, image);
  for (let n = 0; n < 8; n++) {
    const to = at + BigInt(header + REGISTER_BYTES * n);
    for (let i = 0; i < REGISTER_BYTES; i += 2) cpu.mmu.write(to + BigInt(i), 2, BigInt(view.getUint16(ST + 16 * n + i, true)), privilege);
  }
  FxsaveImage.store(cpu.state.view, OFFSET.FPU, { fcw: FCW_INIT, fsw: 0, ftw: 0, fop: 0, fip: 0n, fdp: 0n });
}

export function frstor(cpu: Cpu, insn: Instruction): void {
  waitForUnit(cpu);
  const header = environmentBytes(insn);
  const privilege = privilegeOf(cpu.cpl);
  const at = blockAddress(cpu, insn, header + 8 * REGISTER_BYTES, false);
  const image = loadEnvironment(cpu, insn, at);
  const view = new DataView(image.buffer);
  for (let n = 0; n < 8; n++) {
    const from = at + BigInt(header + REGISTER_BYTES * n);
    for (let i = 0; i < REGISTER_BYTES; i += 2) view.setUint16(ST + 16 * n + i, cpu.mmu.read32(from + BigInt(i), 2, privilege), true);
  }
  writeFxImage(cpu.state, image);
}

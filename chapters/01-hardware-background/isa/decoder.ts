// # The decoder
//
// An x86 instruction is one to fifteen bytes: prefixes in any order, an opcode of one to three bytes, then as the opcode demands a ModRM byte
// (with SIB byte and displacement) and immediates. Nothing says in advance how long it is. The decoder reads byte by byte and stops where
// the instruction stops; it never asks for a byte that the instruction does not have, because the next page may not be there.

import { MODE, SEG, SLOT } from '../state.ts';
import { type Definition, type Encoding, operandBytes } from './encoding.ts';
import { type Instruction, NONE, RIP_RELATIVE } from './instruction.ts';
import { INSTRUCTION_SET, UNDEFINED } from './instruction-set.ts';

/** The longest instruction; a longer one is a general-protection fault. */
export const LONGEST = 15;

/** What the decoder found. `length`, when there is no instruction: 'more' bytes are needed than were given, or there are 'too-many'. */
type Decoded =
  | {
      readonly insn: Instruction;
      readonly encoding: Encoding;
      /** How many bytes the displacement (or direct offset) takes, and how many the immediates behind it: they come last. */
      readonly displacementBytes: number;
      readonly immediateBytes: number;
    }
  | 'more'
  | 'too-many';

/** Encodings by opcode; those that demand a prefix come first. */
const TABLE = new Map<number, Encoding[]>();
/** The same for opcodes that follow a VEX prefix. */
const VEX_TABLE = new Map<number, Encoding[]>();
for (const definition of INSTRUCTION_SET) {
  for (const encoding of definition.encodings) {
    const table = encoding.vex ? VEX_TABLE : TABLE;
    const row = table.get(encoding.opcode) ?? [];
    if (encoding.prefix) row.unshift(encoding);
    else row.push(encoding);
    table.set(encoding.opcode, row);
  }
}
const UNDEFINED_ENCODING = UNDEFINED.encodings[0] as Encoding;

/** Thrown inside this file alone. */
class OutOfBytes {}
const OUT = new OutOfBytes();

class Reader {
  readonly #bytes: Uint8Array;
  readonly #start: number;
  readonly #end: number;
  at: number;

  constructor(bytes: Uint8Array, at: number, end: number) {
    this.#bytes = bytes;
    this.#start = at;
    this.#end = end;
    this.at = at;
  }
  get length(): number {
    return this.at - this.#start;
  }
  u8(): number {
    // The fifteenth byte is the last that any instruction may have; asking for a sixteenth is the error, wherever the bytes run out.
    if (this.length === LONGEST || this.at === this.#end) throw OUT;
    return this.#bytes[this.at++] as number;
  }
  i8(): bigint {
    return BigInt((this.u8() << 24) >> 24);
  }
  u16(): number {
    return this.u8() | (this.u8() << 8);
  }
  i16(): bigint {
    return BigInt((this.u16() << 16) >> 16);
  }
  i32(): bigint {
    return BigInt(this.u16() | (this.u16() << 16));
  }
  u32(): number {
    return (this.u16() | (this.u16() << 16)) >>> 0;
  }
  i64(): bigint {
    return BigInt.asIntN(64, BigInt(this.u32()) | (BigInt(this.u32()) << 32n));
  }
  signed(bytes: number): bigint {
    if (bytes === 1) return this.i8();
    if (bytes === 2) return this.i16();
    return bytes === 4 ? this.i32() : this.i64();
  }
}

type Size = 2 | 4 | 8;
const CODE_SIZE: readonly Size[] = [2, 4, 8];

// ## Memory operands
//
// 16-bit addressing has eight fixed combinations of registers. 32- and 64-bit addressing has any base and any scaled index, with two holes in the
// encoding used for other things: no base register but a displacement (in 64-bit code: relative to RIP), and SP as "no index".

interface MemoryOperand {
  base: number;
  index: number;
  scale: number;
  disp: bigint;
  stack: boolean;
}
const { RBX, RSP, RBP, RSI, RDI } = SLOT;
// biome-ignore format: table
const ADDRESS16: readonly (readonly [number, number])[] = [
  [RBX, RSI], [RBX, RDI], [RBP, RSI], [RBP, RDI], [RSI, NONE], [RDI, NONE], [RBP, NONE], [RBX, NONE],
];

function memoryOperand16(reader: Reader, mod: number, rm: number): MemoryOperand {
  if (mod === 0 && rm === 6) return { base: NONE, index: NONE, scale: 0, disp: reader.i16(), stack: false };
  const [base, index] = ADDRESS16[rm] as readonly [number, number];
  const disp = mod === 0 ? 0n : reader.signed(mod);
  return { base, index, scale: 0, disp, stack: base === RBP };
}

// @clause x86.address.forms
function memoryOperand32(reader: Reader, mod: number, rm: number, rex: number, codeSize: number): MemoryOperand {
  let base = rm | ((rex & 1) << 3);
  let index: number = NONE;
  let scale = 0;
  let noBase = mod === 0 && rm === 5;
  const ripRelative = noBase && codeSize === 8;
  if (rm === 4) {
    const sib = reader.u8();
    scale = sib >> 6;
    const extended = ((sib >> 3) & 7) | ((rex & 2) << 2);
    index = extended === RSP ? NONE : extended;
    base = (sib & 7) | ((rex & 1) << 3);
    noBase = mod === 0 && (sib & 7) === 5;
  }
  if (noBase) base = ripRelative ? RIP_RELATIVE : NONE;
  const disp = noBase || mod === 2 ? reader.i32() : mod === 1 ? reader.i8() : 0n;
  return { base, index, scale: index === NONE ? 0 : scale, disp, stack: base === RSP || base === RBP };
}

// ## The VEX prefix
//
// When the one-byte prefixes had run out, two opcodes were taken a second time. In 64-bit code LES and LDS do not exist. In 32-bit code they do, but never
// with a register as their second operand: a ModRM byte above BF would say so, and that is what makes C4 and C5 prefixes there. The bytes that follow hold
// what REX and the mandatory prefixes would say, most of it inverted (so that 32-bit code gets by with ModRM bytes above BF), and name a third register.

interface Vex {
  /** Escape bytes and prefix that it stands for, and REX bits. */
  readonly opcodes: number;
  readonly prefix: number;
  readonly rex: number;
  /** As encoded: 15 when no register is named, because the bits are inverted. */
  readonly vvvv: number;
  readonly long: boolean;
}
const VEX_PREFIX = [0, 0x66, 0xf3, 0xf2] as const;
const VEX_ESCAPE: readonly number[] = [0, 0x0f00, 0x0f3800, 0x0f3a00];

/** Reads what follows C4 or C5; `second` is the byte after it. Null: no such map of opcodes. */
function readVex(reader: Reader, byte: number, second: number, codeSize: Size): Vex | null {
  const third = byte === 0xc4 ? reader.u8() : second & 0x7f;
  const opcodes = VEX_ESCAPE[byte === 0xc4 ? second & 0x1f : 1];
  if (!opcodes) return null;
  const extensions = byte === 0xc4 ? (~second >> 5) & 7 : (~second >> 5) & 4;
  const rex = codeSize === 8 ? extensions | ((third & 0x80) >> 4) : 0;
  return { opcodes, prefix: VEX_PREFIX[third & 3] as number, rex, vvvv: (third >> 3) & 15, long: (third & 4) !== 0 };
}

// ## One instruction

const segmentOfPrefix: Readonly<Record<number, number>> = { 38: SEG.ES, 46: SEG.CS, 54: SEG.SS, 62: SEG.DS, 100: SEG.FS, 101: SEG.GS };

/**
 * Decodes the instruction at `bytes[at]`, using no byte at or beyond `end`. Undefined encodings are an instruction as well: the one that raises #UD.
 */
export function decode(bytes: Uint8Array, at: number, end: number, mode: number): Decoded {
  const reader = new Reader(bytes, at, end);
  try {
    return decodeWith(reader, CODE_SIZE[mode & MODE.CODE] as Size);
  } catch (thrown) {
    if (thrown !== OUT) throw thrown;
    return reader.length === LONGEST ? 'too-many' : 'more';
  }
}

function decodeWith(reader: Reader, codeSize: Size): Decoded {
  let operandPrefix = false;
  let addressPrefix = false;
  let lock = false;
  let repeat = 0;
  let segmentOverride: number = NONE;
  let rex = 0;
  let byte = reader.u8();
  // @clause x86.prefix.combinations
  // @clause x86.prefix.sizes
  for (;;) {
    // A REX byte counts only directly before the opcode: any prefix after it cancels it.
    if (codeSize === 8 && (byte & 0xf0) === 0x40) rex = byte;
    else {
      const segment = segmentOfPrefix[byte];
      if (segment !== undefined) {
        // 64-bit code knows only FS and GS; the others are accepted and mean nothing.
        if (codeSize < 8 || segment >= SEG.FS) segmentOverride = segment;
      } else if (byte === 0x66) operandPrefix = true;
      else if (byte === 0x67) addressPrefix = true;
      else if (byte === 0xf0) lock = true;
      else if (byte === 0xf2 || byte === 0xf3) repeat = byte;
      else break;
      rex = 0;
    }
    byte = reader.u8();
  }

  let opcode = byte;
  let modrm = -1;
  let vex: Vex | null = null;
  let row: readonly Encoding[] = [];
  if (byte === 0xc4 || byte === 0xc5) modrm = reader.u8();
  if (modrm >= 0 && (codeSize === 8 || modrm >= 0xc0)) {
    vex = readVex(reader, byte, modrm, codeSize);
    modrm = -1;
    // @clause x86.bmi.encoding
    if (vex && !vex.long && !lock && !operandPrefix && !repeat && !rex) {
      opcode = vex.opcodes | reader.u8();
      row = VEX_TABLE.get(opcode) ?? [];
      rex = vex.rex;
    }
  } else {
    if (opcode === 0x0f) {
      opcode = 0x0f00 | reader.u8();
      if (opcode === 0x0f38 || opcode === 0x0f3a) opcode = (opcode << 8) | reader.u8();
    }
    row = TABLE.get(opcode) ?? [];
  }
  if (modrm < 0 && row.some((encoding) => encoding.hasModrm)) modrm = reader.u8();
  const isMemory = modrm >= 0 && modrm < 0xc0;
  const encoding =
    row.find((candidate) => {
      const { prefix, digit, remarks } = candidate;
      if (vex) {
        if (prefix !== vex.prefix || (vex.vvvv !== 15 && !candidate.operands.some(({ kind }) => kind === 'B'))) return false;
      } else if (prefix && !(prefix === repeat || (prefix === 0x66 && operandPrefix && !repeat))) return false;
      if (digit >= 0 && digit !== ((modrm >> 3) & 7)) return false;
      if (candidate.modrm >= 0 && candidate.modrm !== modrm) return false;
      // @clause x86.long.invalid-opcodes
      if (remarks.has('no64') && codeSize === 8) return false;
      if (remarks.has('only64') && codeSize < 8) return false;
      if (remarks.has('bare') && (operandPrefix || repeat)) return false;
      if (remarks.has('norep') && repeat) return false;
      if (remarks.has('memory') && !isMemory) return false;
      if (remarks.has('register') && isMemory) return false;
      return !candidate.operands.some(({ kind }) => (kind === 'M' && !isMemory) || ('RNU'.includes(kind) && isMemory));
    }) ?? UNDEFINED_ENCODING;
  const { operands, remarks } = encoding;

  let operandSize: Size = vex || operandPrefix === (codeSize === 2) ? 4 : 2;
  if (codeSize === 8) {
    if (remarks.has('f64') || rex & 8 || (remarks.has('d64') && !operandPrefix)) operandSize = 8;
  }
  const addressSize = (codeSize === 8 ? (addressPrefix ? 4 : 8) : addressPrefix === (codeSize === 2) ? 4 : 2) as Size;

  const mod = modrm < 0 ? 0 : modrm >> 6;
  // Control and debug registers ignore mod: there is no memory form.
  const alwaysRegister = operands.some(({ kind }) => kind === 'C' || kind === 'D');
  let memory: MemoryOperand = { base: NONE, index: NONE, scale: 0, disp: 0n, stack: false };
  let displacementBytes = 0;
  if (isMemory && !alwaysRegister && encoding !== UNDEFINED_ENCODING) {
    const before = reader.length + Number(addressSize > 2 && (modrm & 7) === 4); // a SIB byte
    memory = addressSize === 2 ? memoryOperand16(reader, mod, modrm & 7) : memoryOperand32(reader, mod, modrm & 7, rex, codeSize);
    displacementBytes = reader.length - before;
  }

  let imm = 0n;
  let selector = 0;
  let immediates = 0;
  const behind = reader.length;
  for (const spec of operands) {
    if (spec.kind === 'O') {
      memory.disp = addressSize === 2 ? BigInt(reader.u16()) : addressSize === 4 ? BigInt(reader.u32()) : reader.i64();
      displacementBytes = addressSize;
    } else if (spec.kind === 'A') {
      imm = operandSize === 2 ? BigInt(reader.u16()) : BigInt(reader.u32());
      selector = reader.u16();
    } else if (spec.kind === 'I' || spec.kind === 'J') {
      const bytes = operandBytes(spec, operandSize);
      const raw = reader.signed(bytes);
      // Vectors, ports and byte counts are numbers, not distances.
      const value = encoding.definition.system ? BigInt.asUintN(8 * bytes, raw) : raw;
      if (immediates++ === 0) imm = value;
      else selector = Number(value) & 0xff; // only ENTER has two
    }
  }

  const destination = operands[0];
  // @clause x86.exception.lock-prefix
  const lockable = remarks.has('lock') && isMemory && (destination?.kind === 'E' || destination?.kind === 'M');
  const chosen = lock && !lockable ? UNDEFINED_ENCODING : encoding;
  const sized = operands.find(({ kind, size }) => !'IkJPQNVWU'.includes(kind) && !'tx'.includes(size)) ?? destination;
  const segment = segmentOverride !== NONE ? segmentOverride : memory.stack ? SEG.SS : SEG.DS;
  const named = vex ? ~vex.vvvv & (codeSize === 8 ? 15 : 7) : 0;
  const insn: Instruction = {
    name: chosen.definition.name,
    length: reader.length,
    opcode,
    codeSize,
    operandSize,
    addressSize,
    bytes: (sized ? operandBytes(sized, operandSize) : operandSize) as 1 | 2 | 4 | 8,
    lock,
    rep: repeat === 0xf3,
    repne: repeat === 0xf2,
    rex,
    segmentOverride,
    mod: alwaysRegister ? 3 : mod,
    reg: modrm < 0 ? 0 : ((modrm >> 3) & 7) | (operands.some(({ kind }) => kind === 'S') ? 0 : (rex & 4) << 1), // there is no segment register 8
    rm: modrm < 0 ? (opcode & 7) | ((rex & 1) << 3) : (modrm & 7) | ((rex & 1) << 3),
    vvvv: named,
    base: memory.base,
    index: memory.index,
    scale: memory.scale,
    disp: memory.disp,
    segment,
    target: targetSegment(chosen.definition, opcode),
    imm,
    immediate: operands.some(({ kind }) => kind === 'I'),
    selector,
  };
  const immediateBytes = displacementBytes > 0 && !isMemory ? 0 : insn.length - behind; // a direct offset stands alone
  return { insn, encoding: chosen, displacementBytes, immediateBytes };
}

/** Which segment register POP and LES and its relatives load: it is in the opcode. */
function targetSegment({ system }: Definition, opcode: number): number {
  if (system !== 'popSreg' && system !== 'loadFarPointer') return NONE;
  const low = opcode & 0xff;
  if (opcode > 0xff) return system === 'popSreg' ? (low >> 3) & 7 : low & 7; // 0FA1 0FA9; 0FB2 0FB4 0FB5
  if (system === 'popSreg') return low >> 3; // 07 17 1F
  return low === 0xc4 ? SEG.ES : SEG.DS;
}

// # How encodings are written down
//
// The manual gives each instruction a list of encodings and, in its opcode maps, a two-letter code for each operand: `Ev` is "general register or
// memory, chosen by ModRM, of the operand size". The chapters that follow use the same notation, so that an instruction's entry can be read with
// the manual beside it:
//
// ```
// instruction('ADD', '00 Eb,Gb; 01 Ev,Gv; 80/0 Eb,Ib; 83/0 Ev,Ib', …)
// ```
//
// An encoding is an opcode, then operands, then remarks, then perhaps a feature. The opcode is hexadecimal, escape bytes included (`0FB6`); `F3.0FB8` demands a prefix;
// `/4` is an opcode extension in ModRM's reg field, `/C1` a whole ModRM byte; `50+` stands for eight opcodes, with a register in the low three bits, and `/C0+` for
// eight ModRM bytes. `VEX.` stands before the opcodes that take a VEX prefix.

import type { Builder } from './builder.ts';
import type { SystemOp } from './system-ops.ts';

// biome-ignore format: table
const KINDS = {
  E: 'register or memory', M: 'memory', R: 'register, in ModRM.rm', G: 'register, in ModRM.reg', Z: 'register, in the opcode', S: 'segment register',
  C: 'control register', D: 'debug register', I: 'immediate', J: 'relative target', A: 'direct far pointer', O: 'memory at a direct offset',
  P: 'MMX register, in ModRM.reg', Q: 'MMX register or memory', N: 'MMX register, in ModRM.rm',
  B: 'register, in VEX.vvvv',
  V: 'XMM register, in ModRM.reg', W: 'XMM register or memory', U: 'XMM register, in ModRM.rm',
  X: 'memory at DS:rSI', Y: 'memory at ES:rDI', r: 'a register that the code names', k: 'the constant 1',
} as const;
type OperandKind = keyof typeof KINDS;
/**
 * b, w, d, q, t, x: 1, 2, 4, 8, 10, 16 bytes. v: operand size. z: operand size, at most 4. y: 4, or 8 with an operand size of 8. p: far pointer.
 * `0`: no size of its own.
 */
type OperandSize = 'b' | 'w' | 'd' | 'q' | 't' | 'x' | 'v' | 'z' | 'y' | 'p' | '0';

export interface OperandSpec {
  readonly kind: OperandKind;
  readonly size: OperandSize;
  /** Register number, for a register that the encoding names. */
  readonly register: number;
}

/** The effective size in bytes of an operand. */
export function operandBytes(spec: OperandSpec, operandSize: number): number {
  switch (spec.size) {
    case 'b':
      return 1;
    case 'w':
      return 2;
    case 'd':
      return 4;
    case 'q':
      return 8;
    case 't':
      return 10;
    case 'x':
      return 16;
    case 'z':
      return Math.min(operandSize, 4);
    case 'y':
      return Math.max(operandSize, 4);
    default:
      return operandSize;
  }
}

/** Registers that encodings name. */
const NAMED: Readonly<Record<string, OperandSpec>> = {
  AL: { kind: 'r', size: 'b', register: 0 },
  CL: { kind: 'r', size: 'b', register: 1 },
  DX: { kind: 'r', size: 'w', register: 2 },
  eAX: { kind: 'r', size: 'z', register: 0 },
  rAX: { kind: 'r', size: 'v', register: 0 },
  '1': { kind: 'k', size: '0', register: 0 },
};

// biome-ignore format: table
const REMARKS = {
  no64: 'undefined in 64-bit code',
  only64: 'undefined outside 64-bit code',
  d64: 'operand size 8 by default in 64-bit code; prefix 66 makes it 2',
  f64: 'operand size 8 in 64-bit code, whatever the prefixes',
  memory: 'ModRM must name memory',
  register: 'ModRM must name a register',
  bare: 'undefined with prefix 66, F2 or F3',
  norep: 'undefined with prefix F2 or F3',
  lock: 'LOCK is allowed when the destination is memory',
} as const;
type Remark = keyof typeof REMARKS;

/** The words behind the notation. */
export const NOTATION = { kinds: KINDS, remarks: REMARKS } as const;

// The last remark names the CPUID feature with which an encoding came. What every processor has, since the 80486, has none.

/** CPUID's names of the features that brought instructions. */
// biome-ignore format: table
const FEATURES = [
  'X87', 'TSC', 'MSR', 'CX8', 'SEP', 'CMOV', 'CLFSH', 'MMX', 'FXSR', 'SSE', 'SSE2', 'SSE3', 'PCLMULQDQ', 'MONITOR', 'VMX', 'SSSE3', 'CX16', 'SSE4.1', 'SSE4.2',
  'MOVBE', 'POPCNT', 'AESNI', 'XSAVE', 'XSAVEOPT', 'XSAVEC', 'XSAVES', 'RDRAND', 'RDSEED', 'FSGSBASE', 'BMI1', 'BMI2', 'ADX', 'INVPCID', 'SMAP', 'SYSCALL', 'RDTSCP',
  'LAHF64', 'LZCNT',
] as const;
type Feature = (typeof FEATURES)[number];

export interface Encoding {
  /** As it is written in the definition: opcode, operands, remarks, feature. */
  readonly text: string;
  /** 0x00–0xff; 0x0f00–0x0fff; 0x0f3800–0x0f3aff. */
  readonly opcode: number;
  /** The opcode follows a VEX prefix, which then also says what the others would: 66, F2 or F3, and REX. */
  readonly vex: boolean;
  /** A prefix that is part of the opcode, or 0. */
  readonly prefix: number;
  /** ModRM.reg, or -1. */
  readonly digit: number;
  /** The whole ModRM byte, or -1. */
  readonly modrm: number;
  readonly hasModrm: boolean;
  readonly operands: readonly OperandSpec[];
  readonly remarks: ReadonlySet<Remark>;
  readonly feature: Feature | null;
  readonly definition: Definition;
}

/** An instruction: its name, its encodings, and either how micro-operations are made of it or which system operation it is. */
export interface Definition {
  readonly name: string;
  readonly build: ((b: Builder) => void) | null;
  readonly system: SystemOp | null;
  readonly encodings: readonly Encoding[];
}

function parseOperand(text: string): OperandSpec {
  const named = NAMED[text];
  if (named) return named;
  const kind = text[0] as string;
  const size = text[1] ?? '0';
  if (text.length > 2 || !(kind in KINDS) || !'bwdqtxvzyp0'.includes(size)) throw new SyntaxError(`operand ${text}`);
  return { kind: kind as OperandKind, size: size as OperandSize, register: 0 };
}

const OPCODE = /^(VEX\.)?(?:(66|F2|F3)\.)?([0-9A-F]{2,6})(\+)?(?:\/([0-7]|[0-9A-F]{2})(\+)?)?$/;

function parseEncoding(text: string, definition: Definition): Encoding[] {
  const [opcodeText = '', ...words] = text.trim().split(/\s+/);
  const match = OPCODE.exec(opcodeText);
  if (!match) throw new SyntaxError(`${definition.name}: opcode ${opcodeText}`);
  const [, vex, prefix, hex = '', plus, extension, eightForms] = match;
  const isRemark = (word: string): word is Remark => word in REMARKS;
  const isFeature = (word: string): word is Feature => (FEATURES as readonly string[]).includes(word);
  const operands = words.filter((word) => !isRemark(word) && !isFeature(word)).flatMap((word) => word.split(',').map(parseOperand));
  const remarks = new Set<Remark>(words.filter(isRemark));
  const opcode = Number.parseInt(hex, 16);
  const usesModrm = operands.some(({ kind }) => 'EMRGSCDBPQNVWU'.includes(kind)) || remarks.has('memory') || remarks.has('register');
  const encoding: Encoding = {
    text: text.trim(),
    opcode,
    vex: vex !== undefined,
    prefix: prefix ? Number.parseInt(prefix, 16) : 0,
    digit: extension?.length === 1 ? Number(extension) : -1,
    modrm: extension?.length === 2 ? Number.parseInt(extension, 16) : -1,
    hasModrm: usesModrm || extension !== undefined,
    operands,
    remarks,
    feature: words.find(isFeature) ?? null,
    definition,
  };
  if (plus) return Array.from({ length: 8 }, (_, low) => ({ ...encoding, opcode: opcode + low }));
  return eightForms ? Array.from({ length: 8 }, (_, low) => ({ ...encoding, modrm: encoding.modrm + low })) : [encoding];
}

function makeDefinition(name: string, encodings: string, build: Definition['build'], system: Definition['system']): Definition {
  const list: Encoding[] = [];
  const definition: Definition = { name, build, system, encodings: list };
  for (const text of encodings.split(';')) list.push(...parseEncoding(text, definition));
  return definition;
}

/** An instruction that becomes micro-operations. */
export const instruction = (name: string, encodings: string, build: (b: Builder) => void): Definition => makeDefinition(name, encodings, build, null);

/** An instruction that TypeScript executes. `ordinary`: micro-operations that are tried first; they go on at NEXT_RIP, or decline and have changed nothing. */
export const systemInstruction = (name: string, encodings: string, system: SystemOp, ordinary: Definition['build'] = null): Definition =>
  makeDefinition(name, encodings, ordinary, system);

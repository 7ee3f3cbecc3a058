// # Instructions as text
//
// The same tables that decode an instruction can print it, in the notation of the manual.

import { type Encoding, type OperandSpec, operandBytes } from './encoding.ts';
import { type Instruction, NONE, RIP_RELATIVE } from './instruction.ts';

const WORDS = ['AX', 'CX', 'DX', 'BX', 'SP', 'BP', 'SI', 'DI'];
const BYTES = ['AL', 'CL', 'DL', 'BL', 'AH', 'CH', 'DH', 'BH'];
const BYTES_WITH_REX = ['AL', 'CL', 'DL', 'BL', 'SPL', 'BPL', 'SIL', 'DIL'];
const SEGMENTS = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS'];
const SUFFIX: Readonly<Record<number, string>> = { 1: 'B', 2: 'W', 4: 'D', 8: '' };
const WIDTHS: Readonly<Record<number, string>> = { 1: 'BYTE', 2: 'WORD', 4: 'DWORD', 8: 'QWORD', 10: 'TBYTE', 16: 'XMMWORD' };

/** The name of a general register. Without REX, byte registers 4 to 7 are the upper halves of the first four. */
function registerName(n: number, bytes: number, rex = true): string {
  if (n >= 8) return `R${n}${SUFFIX[bytes] ?? ''}`;
  if (bytes === 1) return (rex ? BYTES_WITH_REX : BYTES)[n] as string;
  return `${{ 2: '', 4: 'E', 8: 'R' }[bytes] ?? ''}${WORDS[n]}`;
}

const hex = (value: bigint): string => (value < 10n ? String(value) : `0x${value.toString(16)}`);
const signedHex = (value: bigint): string => (value < 0n ? `-${hex(-value)}` : `+${hex(value)}`);

/** The memory operand, as in `FS:[RBX+RCX*4+0x10]`. */
function memoryText({ base, index, scale, disp, addressSize, segmentOverride }: Instruction): string {
  const parts: string[] = [];
  if (base === RIP_RELATIVE) parts.push('RIP');
  else if (base !== NONE) parts.push(registerName(base, addressSize));
  if (index !== NONE) parts.push(scale > 0 ? `${registerName(index, addressSize)}*${1 << scale}` : registerName(index, addressSize));
  const joined = parts.join('+');
  const address = joined === '' ? hex(BigInt.asUintN(8 * addressSize, disp)) : disp === 0n ? joined : joined + signedHex(disp);
  return `${segmentOverride === NONE ? '' : `${SEGMENTS[segmentOverride]}:`}[${address}]`;
}

function operandText(spec: OperandSpec, insn: Instruction, nth: number, next: bigint | null): string {
  const bytes = operandBytes(spec, insn.operandSize);
  const register = (n: number): string => registerName(n, bytes, insn.rex !== 0);
  const memory = (): string => {
    const width = spec.size === '0' ? '' : WIDTHS[bytes];
    return width ? `${width} ${memoryText(insn)}` : memoryText(insn);
  };
  switch (spec.kind) {
    case 'G':
      return register(insn.reg);
    case 'Z':
    case 'R':
      return register(insn.rm);
    case 'E':
      return insn.mod === 3 ? register(insn.rm) : memory();
    case 'M':
    case 'O':
      return memory();
    case 'S':
      return SEGMENTS[insn.reg] ?? `segment ${insn.reg}`;
    case 'C':
    case 'D': {
      // The general register is in no table: it is always ModRM.rm.
      const both = [`${spec.kind}R${insn.reg}`, registerName(insn.rm, insn.codeSize === 8 ? 8 : 4)];
      return (insn.name.includes(' from ') ? both.reverse() : both).join(', ');
    }
    case 'P':
      return `MM${insn.reg & 7}`;
    case 'N':
      return `MM${insn.rm & 7}`;
    case 'Q':
      return insn.mod === 3 ? `MM${insn.rm & 7}` : memory();
    case 'V':
      return `XMM${insn.reg}`;
    case 'U':
      return `XMM${insn.rm}`;
    case 'W':
      return insn.mod === 3 ? `XMM${insn.rm}` : memory();
    case 'I':
      return nth === 0 ? hex(BigInt.asUintN(8 * bytes, insn.imm)) : hex(BigInt(insn.selector));
    case 'J':
      return next === null ? `$${signedHex(insn.imm + BigInt(insn.length))}` : hex(BigInt.asUintN(8 * insn.operandSize, next + insn.imm));
    case 'A':
      return `${hex(BigInt(insn.selector))}:${hex(insn.imm)}`;
    case 'X':
      return `${WIDTHS[bytes]} ${SEGMENTS[insn.segment]}:[${registerName(6, insn.addressSize)}]`;
    case 'Y':
      return `${WIDTHS[bytes]} ES:[${registerName(7, insn.addressSize)}]`;
    case 'r':
      return register(spec.register);
    case 'k':
      return '1';
    default:
      return spec.kind;
  }
}

/**
 * A decoded instruction in the manual's notation, such as `ADD EAX, DWORD [RBX+8]`. `rip`: where it stands, if relative targets are to be shown as
 * addresses; otherwise they count from the instruction, as `$+5`.
 */
export function textOf({ insn, encoding }: { insn: Instruction; encoding: Encoding }, rip: bigint | null = null): string {
  const next = rip === null ? null : rip + BigInt(insn.length);
  let immediates = 0;
  const operands = encoding.operands.map((spec) => operandText(spec, insn, spec.kind === 'I' ? immediates++ : 0, next));
  if (isStackForm(encoding)) operands.push(`ST(${insn.rm & 7})`);
  const prefix = `${insn.lock ? 'LOCK ' : ''}${stringPrefix(insn, encoding)}`;
  const name = insn.name.startsWith('MOV ') ? 'MOV' : insn.name; // the tables tell the MOVs of special registers apart
  return `${prefix}${name}${operands.length > 0 ? ` ${operands.join(', ')}` : ''}`;
}

/** True for the forms that name a register of the floating-point stack: eight ModRM bytes with one meaning. */
const isStackForm = ({ modrm, definition, opcode }: Encoding): boolean =>
  modrm >= 0xc0 && definition.encodings.filter((other) => other.opcode === opcode && other.modrm >> 3 === modrm >> 3).length === 8;

function stringPrefix({ rep, repne }: Instruction, { operands, prefix }: Encoding): string {
  if (prefix !== 0 || !operands.some(({ kind }) => kind === 'X' || kind === 'Y')) return '';
  return rep ? 'REP ' : repne ? 'REPNE ' : '';
}

// # A decoded instruction
//
// The decoder's result: everything that the bytes say, and nothing about what it means. Micro-operations are made from this record once, when
// code is first met; system instructions keep it and look at it every time they run.

import { type CpuState, SLOT } from '../state.ts';

/** No register: absent base or index. */
export const NONE = -1;
/** The base of a RIP-relative address. It is a slot like the others, and holds the address of the next instruction. */
export const RIP_RELATIVE = SLOT.NEXT_RIP;

export interface Instruction {
  /** Mnemonic in capitals, as in the manual. */
  readonly name: string;
  /** Bytes of machine code, prefixes included: 1 to 15. */
  readonly length: number;
  /** The opcode with its escape bytes: 0x00–0xff, 0x0f00–0x0fff, 0x0f3800–0x0f3aff. */
  readonly opcode: number;
  /** Default operand size of the code: 2, 4 or 8 for 16-, 32- and 64-bit code. */
  readonly codeSize: 2 | 4 | 8;
  /** Effective operand size in bytes, after prefixes, REX.W and the instruction's own rules. Byte forms have `bytes` = 1. */
  readonly operandSize: 2 | 4 | 8;
  /** Effective address size in bytes. */
  readonly addressSize: 2 | 4 | 8;
  /** Width in bytes of the access that the instruction makes: 1 for byte forms, otherwise `operandSize`. For port instructions 1, 2 or 4. */
  readonly bytes: 1 | 2 | 4 | 8;

  readonly lock: boolean;
  /** F3: REP or REPE. */
  readonly rep: boolean;
  /** F2: REPNE. */
  readonly repne: boolean;
  /** The REX byte, 0 when absent. */
  readonly rex: number;
  /** Segment register named by a prefix, or NONE. */
  readonly segmentOverride: number;

  /** ModRM fields, REX-extended to 4 bits; 0 when the instruction has no ModRM byte. `mod` = 3: `rm` is a register. */
  readonly mod: number;
  readonly reg: number;
  readonly rm: number;
  /** The third register, which a VEX prefix names; 0 without one. */
  readonly vvvv: number;

  /** The memory operand: `base + (index << scale) + disp`, slots or NONE, cut to `addressSize`. Direct addresses (moffs) have neither base nor index. */
  readonly base: number;
  readonly index: number;
  readonly scale: number;
  readonly disp: bigint;
  /** Segment of the memory operand (override, or the default of its base). For popSreg and loadFarPointer see `target`. */
  readonly segment: number;
  /** For popSreg and loadFarPointer: the segment register that is loaded. */
  readonly target: number;

  /** First immediate, sign-extended as the instruction demands. */
  readonly imm: bigint;
  /** True when a port number is an immediate byte. */
  readonly immediate: boolean;
  /** Selector of a direct far pointer; nesting level of ENTER. */
  readonly selector: number;
}

const ADDRESS_MASK = { 2: 0xffffn, 4: 0xffffffffn, 8: 0xffffffffffffffffn } as const;

/**
 * Offset of the memory operand within its segment, for TypeScript code that runs *while* the instruction executes (a RIP-relative address counts
 * from NEXT_RIP). No segment base is added and nothing is checked.
 */
export function effectiveAddress(state: CpuState, insn: Instruction): bigint {
  let address = insn.disp;
  if (insn.base !== NONE) address += state.slot(insn.base);
  if (insn.index !== NONE) address += state.slot(insn.index) << BigInt(insn.scale);
  return address & ADDRESS_MASK[insn.addressSize];
}

// # What the translator makes of a piece of code
//
// The model behind the translator's page: a small machine whose translator is hot at once, and what it shows of the first region that it compiles.

import { FlatMachine } from '../../chapters/01-hardware-background/engine/flat-machine.ts';
import { nameOf, type Region, type Transfer } from '../../chapters/01-hardware-background/engine/translator/region.ts';
import { disassemble } from '../../chapters/01-hardware-background/engine/wasm-text.ts';
import { decode } from '../../chapters/01-hardware-background/isa/decoder.ts';
import { textOf } from '../../chapters/01-hardware-background/isa/text.ts';
import { programFor } from '../../chapters/01-hardware-background/ladder/program.ts';
import { CR4, OFFSET, SLOT } from '../../chapters/01-hardware-background/state.ts';

export interface Specimen {
  readonly name: string;
  readonly bits: 32 | 64;
  readonly code: readonly number[];
}

const rel32 = (from: number, to: number): number[] => {
  const distance = to - from;
  return [distance & 0xff, (distance >> 8) & 0xff, (distance >> 16) & 0xff, (distance >> 24) & 0xff];
};

/** fib(n): calls, a stack, a condition. EAX is argument and result. */
function recursion(): number[] {
  const main = [0xb8, 15, 0, 0, 0, 0xe8, 2, 0, 0, 0, 0xeb, 0xf4]; // mov eax, 15; call fib; jmp -12
  const fib = [0x83, 0xf8, 2, 0x72, 0x15, 0x53, 0x89, 0xc3, 0x48]; // cmp eax, 2; jb to the end; push ebx; mov ebx, eax; dec eax
  fib.push(0xe8, ...rel32(fib.length + 5, 0)); // call fib
  fib.push(0x93, 0x83, 0xe8, 2); // xchg ebx, eax; sub eax, 2
  fib.push(0xe8, ...rel32(fib.length + 5, 0));
  fib.push(0x01, 0xd8, 0x5b, 0xc3); // add eax, ebx; pop ebx; ret
  fib[4] = fib.length - 1 - 5;
  return [...main, ...fib];
}

// biome-ignore format: table
export const SPECIMENS: readonly Specimen[] = [
  { name: 'a checksum loop', bits: 32, code: [...programFor(1_000_000)] },
  { name: 'recursion', bits: 32, code: recursion() },
  { name: 'the length of a string', bits: 64, code: [
    0x48, 0x8d, 0x3d, 0x39, 0, 0, 0, //          lea rdi, [rip+0x39]
    0x80, 0x3f, 0, 0x74, 0x05, //                cmp byte [rdi], 0; jz to the last jump
    0x48, 0xff, 0xc7, 0xeb, 0xf6, //             inc rdi; jmp to the comparison
    0xeb, 0xed, //                               jmp to the start
  ] },
  { name: 'addition with carry', bits: 64, code: [
    0xb9, 4, 0, 0, 0, 0xf8, //                   mov ecx, 4; clc
    0x48, 0x8d, 0x35, 0, 1, 0, 0, //             lea rsi, [rip+0x100]
    0x48, 0x8b, 0x06, 0x48, 0x11, 0x46, 0x40, // mov rax, [rsi]; adc [rsi+0x40], rax
    0x48, 0x8d, 0x76, 8, 0xff, 0xc9, 0x75, 0xf1, // lea rsi, [rsi+8]; dec ecx; jnz to the load
    0xeb, 0xe2, //                               jmp to the start
  ] },
  { name: 'four numbers at a time', bits: 64, code: [
    0x48, 0x8d, 0x35, 9, 1, 0, 0, 0xb9, 16, 0, 0, 0, // lea rsi, [rip+0x109]; mov ecx, 16
    0x66, 0x0f, 0xfe, 0x06, 0x66, 0x0f, 0xef, 0xc8, //  paddd xmm0, [rsi]; pxor xmm1, xmm0
    0x48, 0x83, 0xc6, 16, 0xff, 0xc9, 0x75, 0xf0, //    add rsi, 16; dec ecx; jnz to the addition
    0xeb, 0xe2, //                                      jmp to the start
  ] },
];

/** One guest instruction: where, what, and its micro-operations with their operands. */
export interface ShownInstruction {
  readonly address: string;
  readonly bytes: string;
  readonly text: string;
  readonly micros: readonly string[];
}
export interface ShownRegion {
  readonly blocks: readonly { readonly instructions: readonly ShownInstruction[]; readonly leads: string }[];
  readonly wasm: readonly string[];
  readonly bytes: number;
  readonly instructions: number;
}

const CODE_AT = 0x1000;
const STACK_AT = 0x8000;
const PATIENCE = 200_000;

const hex = (value: bigint | number): string => value.toString(16);
const leadsTo = (transfer: Transfer, next: bigint): string => {
  if (transfer.kind === 'next') return `on to ${hex(next)}`;
  if (transfer.kind === 'indirect') return transfer.form === 'return' ? 'back to whoever called' : 'to a computed address';
  return transfer.kind === 'branch' ? `to ${hex(transfer.target)} or ${hex(next)}` : `to ${hex(transfer.target)}`;
};

/** Runs code until its hottest part has been translated, and shows what became of it. Null: nothing was, within patience. */
export function translated({ bits, code }: Specimen): ShownRegion | null {
  const machine = new FlatMachine(bits, 1 << 20, { translate: true, heat: 8 });
  let shown: ShownRegion | null = null;
  if (!machine.engine.translator) return null;
  machine.engine.translator.onCompiled = (region, module) => {
    shown ??= show(region, module, machine.memory.u8);
  };
  machine.state.set64(OFFSET.CR4, BigInt(CR4.OSFXSR)); // vectors are allowed
  machine.state.setSlotNumber(SLOT.RSP, STACK_AT);
  machine.run(code, { at: CODE_AT, instructions: PATIENCE });
  return shown;
}

function show(region: Region, module: Uint8Array, memory: Uint8Array): ShownRegion {
  const blocks = region.blocks.map(({ steps }) => ({
    leads: steps
      .slice(-1)
      .map(({ transfer, next }) => leadsTo(transfer, next))
      .join(),
    instructions: steps.map(({ offset, rip, length, micros }): ShownInstruction => {
      const at = region.page + offset;
      const decoded = decode(memory, at, at + length, region.mode);
      return {
        address: hex(rip),
        bytes: [...memory.subarray(at, at + length)].map((byte) => byte.toString(16).padStart(2, '0')).join(' '),
        text: typeof decoded === 'string' ? decoded : textOf(decoded, rip),
        micros: micros.map(({ op }) => nameOf(op)),
      };
    }),
  }));
  const functions = disassemble(module);
  return { blocks, wasm: functions[functions.length - 1] ?? [], bytes: module.length, instructions: region.instructions };
}

/** Code from text such as `83 f8 02`. @throws RangeError naming what is no byte, or when there are too many. */
export function bytesFrom(text: string): number[] {
  const words = text
    .trim()
    .split(/[\s,]+/)
    .filter(Boolean);
  if (words.length === 0 || words.length > 512) throw new RangeError(`between 1 and 512 bytes, not ${words.length}`);
  return words.map((word) => {
    const value = /^(0x)?[0-9a-fA-F]{1,2}$/.test(word) ? Number.parseInt(word.replace(/^0x/, ''), 16) : Number.NaN;
    if (Number.isNaN(value)) throw new RangeError(`'${word.slice(0, 12)}' is no byte in hexadecimal`);
    return value;
  });
}

// ## The rungs
//
// **Decode, dispatch, perform.** The oldest interpreter is a loop around a switch: look at the bytes, decide what they mean, do it. Decoding x86 is much
// more work than adding two numbers, and here it is done again for every addition.
//
// **Decode once.** Code is executed far more often than it changes. So the result of decoding is kept, and the loop goes through records. What remains
// is the switch: one jump, taken for every instruction, whose target depends on the instruction; a processor of the time guessed it wrong most of the time.
//
// **Threaded code.** If the record contains the *address of the code* that performs the instruction, no switch is needed: the code for one instruction ends
// with a jump to that for the next. Forth was built so in 1970, and Bell gave it the name in 1973. A language without jumps to computed addresses has closures: each
// instruction becomes a function that knows its operands. The operands are then variables, not fields to be looked up.
//
// **A better machine underneath.** The interpreter of this chapter is the second idea again, in WebAssembly: what the loop consists of has been chosen, down to the
// operation, by whoever wrote it, and the registers have 64 bits. It also does everything else that a processor has to: flags, faults, page
// tables, time. The rungs below it do not.
//
// **Translation.** All four perform one instruction after another, and the work *between* two instructions, finding the next one, costs as much as the instructions
// themselves. So make a program out of the guest's program: what the loop does, as one function, with the registers in local variables and nothing between one
// instruction and the next. Then have that compiled. This is the subject of the next part.

import { FLAT_MODE, FlatMachine } from '../engine/flat-machine.ts';
import { SLOT } from '../state.ts';
import { CODE_ADDRESS, DATA_ADDRESS, type Decoded, dataWords, decodeAt, instructionsFor, programFor } from './program.ts';

/** A way to run the program. */
export interface Rung {
  readonly name: string;
  /** Makes `rounds` passes over the data and returns EAX. */
  run(rounds: number): number;
}

const RAM_WORDS = 0x8000 / 4;
const EAX = 0;
const ECX_TO_EDI = 8;

/** Registers, memory and the one flag that the program looks at. */
class Registers {
  readonly r = new Int32Array(ECX_TO_EDI);
  readonly ram = new Int32Array(RAM_WORDS);
  zero = false;
  constructor() {
    this.ram.set(dataWords(), DATA_ADDRESS / 4);
  }
}

/** Performs one instruction other than a jump. */
function perform({ name, to, from, base, imm }: Decoded, cpu: Registers): void {
  const { r } = cpu;
  const b = from < 0 ? imm : (r[from] as number);
  switch (name) {
    case 'MOV':
      r[to] = base < 0 ? b : (cpu.ram[(r[base] as number) >> 2] as number);
      return;
    case 'ADD':
      r[to] = (r[to] as number) + b;
      break;
    case 'XOR':
      r[to] = (r[to] as number) ^ b;
      break;
    case 'SHL':
      r[to] = (r[to] as number) << b;
      break;
    case 'DEC':
      r[to] = (r[to] as number) - 1;
      break;
  }
  cpu.zero = r[to] === 0;
}

const decodeEachTime: Rung = {
  name: 'decode each time',
  run(rounds) {
    const code = programFor(rounds);
    const cpu = new Registers();
    for (let at = 0; ; ) {
      const insn = decodeAt(code, at, FLAT_MODE[32]);
      at += insn.length;
      if (insn.name === 'HLT') return cpu.r[EAX] as number;
      if (insn.name !== 'JNZ') perform(insn, cpu);
      else if (!cpu.zero) at += insn.imm;
    }
  },
};

const decodeOnce: Rung = {
  name: 'decode once',
  run(rounds) {
    const code = programFor(rounds);
    const cpu = new Registers();
    const records: Decoded[] = []; // by address, like a cache of decoded code
    for (let at = 0; ; ) {
      let insn = records[at];
      if (!insn) {
        insn = decodeAt(code, at, FLAT_MODE[32]);
        records[at] = insn;
      }
      at += insn.length;
      if (insn.name === 'HLT') return cpu.r[EAX] as number;
      if (insn.name !== 'JNZ') perform(insn, cpu);
      else if (!cpu.zero) at += insn.imm;
    }
  },
};

/** What one instruction has become: it acts, and returns what follows. A link is filled in when what it leads to exists. */
type Thread = () => Thread | null;
interface Link {
  code: Thread | null;
}

function thread({ name, to, from, base, imm }: Decoded, cpu: Registers, next: Link, target: Link): Thread {
  const { r, ram } = cpu;
  const sets = (result: () => number): Thread => {
    return () => {
      const value = result() | 0;
      r[to] = value;
      cpu.zero = value === 0;
      return next.code;
    };
  };
  switch (name) {
    case 'MOV':
      return () => {
        r[to] = base < 0 ? imm : (ram[(r[base] as number) >> 2] as number);
        return next.code;
      };
    case 'ADD':
      return from < 0 ? sets(() => (r[to] as number) + imm) : sets(() => (r[to] as number) + (r[from] as number));
    case 'XOR':
      return sets(() => (r[to] as number) ^ (r[from] as number));
    case 'SHL':
      return sets(() => (r[to] as number) << imm);
    case 'DEC':
      return sets(() => (r[to] as number) - 1);
    case 'JNZ':
      return () => (cpu.zero ? next.code : target.code);
    case 'HLT':
      return () => null;
  }
}

const threaded: Rung = {
  name: 'threaded code',
  run(rounds) {
    const code = programFor(rounds);
    const cpu = new Registers();
    const links = Array.from(code, (): Link => ({ code: null }));
    const end: Link = { code: null };
    for (let at = 0; at < code.length; ) {
      const insn = decodeAt(code, at, FLAT_MODE[32]);
      const after = at + insn.length;
      (links[at] as Link).code = thread(insn, cpu, links[after] ?? end, links[after + insn.imm] ?? end);
      at = after;
    }
    for (let step = (links[0] as Link).code; step; ) step = step();
    return cpu.r[EAX] as number;
  },
};

/** The last two: the chapter's own processor, with its translator off and on. */
const machine = (name: string, translate: boolean): Rung => ({
  name,
  run(rounds) {
    const machine = new FlatMachine(32, 1 << 20, { translate });
    machine.memory.slice(DATA_ADDRESS, dataWords().byteLength).set(new Uint8Array(dataWords().buffer));
    machine.run(programFor(rounds), { at: CODE_ADDRESS, instructions: instructionsFor(rounds) });
    return machine.state.slot32(SLOT.RAX) | 0;
  },
});

/** From the bottom to the top. */
export const RUNGS: readonly Rung[] = [decodeEachTime, decodeOnce, threaded, machine('interpreter', false), machine('translator', true)];

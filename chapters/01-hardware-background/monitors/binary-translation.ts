// # Binary translation
//
// If an instruction misbehaves when it runs, do not run it. This monitor never executes the guest's own bytes: before a piece of kernel code runs for the first
// time, it is copied, one *basic block* at a time (up to and including the next jump), into a cache. Innocent instructions are copied as they are. A sensitive
// one is replaced by a software interrupt into the monitor. The block's end is replaced as well, because where the guest goes next must be translated
// before it goes there; and when it turns out where that is, the exit is patched into a jump, so that a loop, once translated, runs without the monitor.
//
// That last step is called *chaining*. Without it every iteration of the specimen's loop would enter the monitor.

import { decode, LONGEST } from '../isa/decoder.ts';
import { effectiveAddress, type Instruction } from '../isa/instruction.ts';
import { assert } from '../physical-memory.ts';
import { FLAG, MODE } from '../state.ts';
import { lies, specimen } from './specimen.ts';
import { Stage, type Trap } from './stage.ts';
import { type Outcome, VirtualProcessor } from './virtual-processor.ts';

const CACHE_GPA = 0x8000;
const CACHE_BYTES = 0x1000;
/** INT with one of these vectors stands in the cache where the monitor is wanted. */
const CALLOUT = 0x20;
const LEAVE_BLOCK = 0x21;
/** Room for INT n and three NOPs, or for the JMP rel32 that replaces them. */
const EXIT_BYTES = 5;
const MODE_OF_GUEST = MODE.CODE32 | MODE.STACK32 | MODE.PROTECTED;

const PUSHF = 0x9c;
const POPF = 0x9d;
const SGDT = 0x0f01; // with reg = 0
const SENSITIVE = new Set([0xfa, 0xfb, 0xf4, 0xe6, PUSHF, POPF]);
const isSensitive = ({ opcode, reg, mod }: Instruction): boolean => SENSITIVE.has(opcode) || (opcode === SGDT && reg === 0 && mod !== 3);
const isJcc = ({ opcode }: Instruction): boolean => opcode >= 0x70 && opcode <= 0x7f;

/** How a translated run came out. */
interface TranslatedOutcome extends Outcome {
  readonly blocks: number;
  readonly chained: number;
  /** Entries into the monitor for sensitive instructions; the others were block exits. */
  readonly callouts: number;
}

class Translator {
  readonly #stage: Stage;
  #next = CACHE_GPA;
  /** Guest address of a block → where its translation begins. */
  readonly #blocks = new Map<number, number>();
  /** Address after a callout's INT → the instruction it stands for. */
  readonly callouts = new Map<number, { insn: Instruction; eip: number }>();
  /** Address of a block exit → the guest address it leads to. */
  readonly exits = new Map<number, number>();
  chained = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  get blocks(): number {
    return this.#blocks.size;
  }

  #emit(...bytes: readonly number[]): void {
    assert(this.#next + bytes.length <= CACHE_GPA + CACHE_BYTES, 'the translation cache is full');
    this.#stage.machine.load(this.#next, bytes);
    this.#next += bytes.length;
  }

  #emitExit(target: number): void {
    this.exits.set(this.#next, target);
    this.#emit(0xcd, LEAVE_BLOCK, 0x90, 0x90, 0x90);
  }

  /** Where the translation of the block at a guest address begins; translates it when it is not there yet. */
  block(eip: number): number {
    const known = this.#blocks.get(eip);
    if (known !== undefined) return known;
    const start = this.#next;
    this.#blocks.set(eip, start);
    const { memory } = this.#stage.machine;
    for (let at = eip; ; ) {
      const decoded = decode(memory.u8, memory.offset(at), memory.offset(at) + LONGEST, MODE_OF_GUEST);
      assert(typeof decoded === 'object', `no instruction at 0x${at.toString(16)}`);
      const { insn } = decoded;
      const after = at + insn.length;
      if (isJcc(insn)) {
        // The condition stays; both of its outcomes become exits: jcc taken; exit to what follows; taken: exit to the target.
        this.#emit(0x0f, 0x80 | (insn.opcode & 0xf), EXIT_BYTES, 0, 0, 0);
        this.#emitExit(after);
        this.#emitExit(after + Number(insn.imm));
        return start;
      }
      if (isSensitive(insn)) {
        this.#emit(0xcd, CALLOUT);
        this.callouts.set(this.#next, { insn, eip: at });
        if (insn.opcode === 0xf4) return start; // nothing follows a halt
      } else {
        this.#emit(...memory.slice(at, insn.length));
      }
      at = after;
    }
  }

  /** The guest left a block: finds the next one and patches the exit, so that this exit is never taken again. */
  follow(trap: Trap): void {
    const exit = trap.eip - 2;
    const target = this.exits.get(exit);
    assert(target !== undefined, `no block exit at 0x${exit.toString(16)}`);
    const destination = this.block(target);
    const distance = destination - (exit + EXIT_BYTES);
    this.#stage.machine.load(exit, [0xe9, distance & 0xff, (distance >> 8) & 0xff, (distance >> 16) & 0xff, (distance >> 24) & 0xff]);
    this.chained++;
    trap.eip = destination;
  }
}

/** Performs a sensitive instruction on the virtual processor, with the real arithmetic flags. */
function perform(stage: Stage, processor: VirtualProcessor, insn: Instruction, trap: Trap): void {
  const { memory, cpu } = stage.machine;
  switch (insn.opcode) {
    case PUSHF:
      trap.esp -= 4;
      memory.view.setUint32(memory.offset(trap.esp, 4), (trap.eflags & ~FLAG.IF) | (processor.interrupts ? FLAG.IF : 0), true);
      break;
    case POPF: {
      const flags = memory.view.getUint32(memory.offset(trap.esp, 4), true);
      processor.interrupts = (flags & FLAG.IF) !== 0;
      trap.eflags = (flags & ~FLAG.IF) | (trap.eflags & FLAG.IF);
      trap.esp += 4;
      break;
    }
    case SGDT: {
      const at = memory.offset(Number(effectiveAddress(cpu.state, insn)), 6);
      memory.view.setUint16(at, processor.gdtLimit, true);
      memory.view.setUint32(at + 2, 0, true);
      break;
    }
    default:
      assert(processor.emulate(insn.opcode, Number(insn.imm & 0xffn)) > 0, `no emulation for ${insn.name}`);
  }
}

/** Runs the specimen translated, in ring 1. */
export function binaryTranslation(): TranslatedOutcome {
  const stage = new Stage(1);
  const processor = new VirtualProcessor(stage.machine);
  const translator = new Translator(stage);
  let callouts = 0;
  stage.startAt(translator.block(specimen.entry));
  while (!processor.halted) {
    const trap = stage.next();
    if (trap?.vector === LEAVE_BLOCK) {
      translator.follow(trap);
      continue;
    }
    assert(trap?.vector === CALLOUT, `translated code enters the monitor by its own vectors only, not ${trap?.vector}`);
    const callout = translator.callouts.get(trap.eip);
    assert(callout, `no callout before 0x${trap.eip.toString(16)}`);
    callouts++;
    perform(stage, processor, callout.insn, trap);
  }
  const notes = stage.notes();
  const { blocks, chained } = translator;
  return { notes, lies: lies(notes), crossings: stage.crossings, instructions: stage.instructions, blocks, chained, callouts };
}

// The notes are those of the bare machine, at a price of {{binaryTranslation().crossings}} entries: {{binaryTranslation().callouts}} for
// sensitive instructions and {{binaryTranslation().chained}} to find out where a block leads, each of these once. The {{specimen.retired}}
// instructions of the run are made of {{binaryTranslation().blocks}} blocks.
//
// VMware's translator was this and years of care: it rewrote direct jumps and calls, looked returns and indirect jumps up in a hash table, noticed when
// the guest changed code that had been translated, reported every fault at the guest's own address, and did most callouts without leaving the cache at
// all, by inlining them. User programs of the guest ran untranslated, because in ring 3 the hardware does what it should. It beat the first generation
// of VT-x on many workloads, for a simple reason: an inlined callout costs a few instructions, and an exit exchanges the whole state of the processor.

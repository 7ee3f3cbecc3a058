// # Between two instructions
//
// The order is architecture. At one boundary there can be a single-step trap from the instruction that has just ended, an NMI, an external
// interrupt, a hypervisor that waits for a window, and a breakpoint on the instruction to come. The manual ranks them, and the ranking is visible
// to software: a debugger that steps through code with interrupts on must see its trap first, or it would step into the handler.
//
// ::figure boundary -- Four events due at one boundary, between an OUT under TF and the next instruction, in the order of a run.

import type { Cpu } from '../cpu.ts';
import { VECTOR, VmExit } from '../faults.ts';
import { type CpuState, CR0, FLAG, MODE, OFFSET, SEG, SLOT } from '../state.ts';
import { EVENT_TYPE } from '../vmx/processor.ts';
import { loadRealSegment } from './descriptors.ts';
import { raise, raiseDebug } from './exceptions.ts';
import { resetProgram } from './reset.ts';
import type { InterruptSource } from './surroundings.ts';

/** Interruptibility bits, in OFFSET.SHADOW. */
export const SHADOW = { STI: 1, MOV_SS: 2, NMI: 8 } as const;
/** Activity states, in OFFSET.ACTIVITY. */
export const ACTIVITY = { ACTIVE: 0, HLT: 1, SHUTDOWN: 2, WAIT_FOR_SIPI: 3 } as const;
const EXIT = { INIT: 3, SIPI: 4 } as const;

/** What is due at the next boundary, and in which order it is taken. */
export class Boundary {
  readonly #cpu: Cpu;
  interrupts: InterruptSource | null = null;
  nmi = false;
  init = false;
  /** Vector of a start-up message, or -1. */
  sipi = -1;
  /** DR6 conditions of the trap to raise after the instruction under way. */
  debug = 0;

  constructor(cpu: Cpu) {
    this.#cpu = cpu;
  }

  /** Forgets what is due. The interrupt controller has its own reset. */
  clear(): void {
    this.debug = 0;
    this.nmi = false;
    this.init = false;
    this.sipi = -1;
  }

  /** An NMI or an interrupt is there, whether or not it can be taken. */
  get waiting(): boolean {
    return this.nmi || (this.interrupts?.pending() ?? false);
  }

  /** Takes the most urgent event, if there is one that can be taken. */
  take(): boolean {
    const cpu = this.#cpu;
    const { state, intercepts } = cpu;
    if (this.#takeInit()) return true;
    const activity = state.get32(OFFSET.ACTIVITY);
    if (activity === ACTIVITY.WAIT_FOR_SIPI) return false;
    const shadow = state.get32(OFFSET.SHADOW);
    // @clause x86.interrupt.debug-first
    if (this.debug !== 0 && !(shadow & SHADOW.MOV_SS)) {
      const conditions = this.debug;
      this.debug = 0;
      raiseDebug(cpu, conditions);
      return true;
    }
    const inhibited = (shadow & (SHADOW.STI | SHADOW.MOV_SS)) !== 0;
    const canNmi = !inhibited && !(shadow & SHADOW.NMI);
    const canInterrupt = !inhibited && (state.get32(OFFSET.RFLAGS) & FLAG.IF) !== 0;
    if (intercepts && activity !== ACTIVITY.SHUTDOWN) intercepts.windows(canInterrupt, canNmi);
    if (this.nmi && this.#takeNmi(canNmi)) return true;
    return activity !== ACTIVITY.SHUTDOWN && this.#takeInterrupt(canInterrupt);
  }

  // @clause x86.smp.init-sipi
  #takeInit(): boolean {
    const cpu = this.#cpu;
    const { state, vmx, intercepts } = cpu;
    if (this.init && !(vmx?.operating && !intercepts)) {
      this.init = false;
      if (intercepts) throw new VmExit(EXIT.INIT);
      const caches = state.get64(OFFSET.CR0) & BigInt(CR0.CD | CR0.NW);
      resetProgram(cpu);
      state.set64(OFFSET.CR0, caches | BigInt(CR0.ET));
      cpu.settle('init');
      if (cpu.apicId !== 0) state.set32(OFFSET.ACTIVITY, ACTIVITY.WAIT_FOR_SIPI);
      return true;
    }
    if (this.sipi < 0 || state.get32(OFFSET.ACTIVITY) !== ACTIVITY.WAIT_FOR_SIPI) return false;
    const vector = this.sipi;
    this.sipi = -1;
    if (intercepts) throw new VmExit(EXIT.SIPI, BigInt(vector));
    loadRealSegment(cpu, SEG.CS, vector << 8);
    state.setSlot(SLOT.RIP, 0n);
    state.setSlot(SLOT.NEXT_RIP, 0n);
    state.set32(OFFSET.ACTIVITY, ACTIVITY.ACTIVE);
    cpu.modeChanged();
    return true;
  }

  // @clause x86.nmi.masking
  #takeNmi(allowed: boolean): boolean {
    const cpu = this.#cpu;
    const { state, intercepts } = cpu;
    if (intercepts) {
      this.nmi = false;
      intercepts.nmi();
      this.nmi = true;
    }
    if (!allowed) return false;
    this.nmi = false;
    state.set32(OFFSET.SHADOW, state.get32(OFFSET.SHADOW) | SHADOW.NMI);
    raise(cpu, { vector: VECTOR.NMI, type: EVENT_TYPE.NMI, errorCode: null, returnTo: state.slot(SLOT.RIP), resume: false });
    return true;
  }

  // @clause x86.interrupt.delivery
  #takeInterrupt(allowed: boolean): boolean {
    const cpu = this.#cpu;
    if (!this.interrupts?.pending()) return false;
    // In non-root operation the hypervisor may want it whatever RFLAGS.IF says: then this throws.
    cpu.intercepts?.externalInterrupt();
    if (!allowed) return false;
    const vector = this.interrupts.acknowledge();
    raise(cpu, { vector, type: EVENT_TYPE.EXTERNAL, errorCode: null, returnTo: cpu.state.slot(SLOT.RIP), resume: false });
    return true;
  }
}

// ## Shadows
//
// STI, MOV SS and an IRET that sets RF do not stop the engine, so their shadow may have been over for long when somebody looks.

/** An instruction inhibits events until the next one has ended. */
export function beginShadow(state: CpuState, kind: number): void {
  state.set32(OFFSET.SHADOW, state.get32(OFFSET.SHADOW) | kind);
  state.set64(OFFSET.SHADOW_AT, state.get64(OFFSET.ICOUNT));
}

/** What inhibited events for an instruction does no more. */
export function endShadow(state: CpuState): void {
  state.set32(OFFSET.SHADOW, state.get32(OFFSET.SHADOW) & ~(SHADOW.STI | SHADOW.MOV_SS));
}

// @clause x86.interrupt.sti-shadow
/** Forgets a shadow of STI or MOV SS, and RF, that date from more than `age` instructions ago. */
export function expireShadow(state: CpuState, age: number): void {
  const now = state.getNumber(OFFSET.ICOUNT);
  const shadow = state.get32(OFFSET.SHADOW);
  const flags = state.get32(OFFSET.RFLAGS);
  if (shadow & (SHADOW.STI | SHADOW.MOV_SS) && now - state.getNumber(OFFSET.SHADOW_AT) > age) endShadow(state);
  if (flags & FLAG.RF && now - state.getNumber(OFFSET.RESUME_AT) > age) state.set32(OFFSET.RFLAGS, flags & ~FLAG.RF);
}

// ## Half-way through a string
//
// A string instruction that repeats has boundaries inside it. There RIP has not moved, as with an instruction that jumps to itself; only the bytes tell.

const LEGACY_PREFIXES: ReadonlySet<number> = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]);
/** INS, OUTS, MOVS, CMPS, STOS, LODS, SCAS. */
const STRING_OPCODES: ReadonlySet<number> = new Set([0x6c, 0x6d, 0x6e, 0x6f, 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]);

/** Is the instruction at a linear address, which has just been executed, a string instruction with a repeat prefix? */
export function isRepeatedString(state: CpuState, linear: bigint, read: (linear: bigint) => number): boolean {
  const code64 = (state.get32(OFFSET.MODE) & MODE.CODE) === MODE.CODE64;
  const isPrefix = (byte: number): boolean => LEGACY_PREFIXES.has(byte) || (code64 && (byte & 0xf0) === 0x40);
  const byteAt = (n: number): number => read(linear + BigInt(n));
  let repeated = false;
  let n = 0;
  for (; isPrefix(byteAt(n)); n++) repeated ||= byteAt(n) === 0xf2 || byteAt(n) === 0xf3;
  return repeated && STRING_OPCODES.has(byteAt(n));
}

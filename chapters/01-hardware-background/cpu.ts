// # The processor
//
// Here the parts meet. The engine runs instructions and knows nothing of privilege. The MMU translates and knows nothing of instructions. The
// system instructions know the rules, and VMX sits on top of all. What is left for this file is *time*: when the engine is let go, for how long, and
// what has to be looked at when it comes back.

import { Engine, type EngineHost } from './engine/engine.ts';
import { readFlags } from './engine/flags.ts';
import { DELIVERY } from './engine/micro-ops/system.ts';
import { Fault, VECTOR, VmExit } from './faults.ts';
import type { EptContext, Intercepts } from './intercepts.ts';
import type { Instruction } from './isa/instruction.ts';
import type { SystemOp } from './isa/system-ops.ts';
import { Mmu, type MmuHost, type PhysicalBus } from './mmu/mmu.ts';
import { LINEAR_ADDRESS_BITS, PHYSICAL_ADDRESS_BITS, WIDE_LINEAR_ADDRESS_BITS } from './mmu/paging.ts';
import type { PhysicalMemory } from './physical-memory.ts';
import { CpuState, CR0, CR4, EFER, FLAG, MODE, OFFSET, SEG, SLOT, WATCH } from './state.ts';
import { ACTIVITY, Boundary, beginShadow, endShadow, expireShadow, isRepeatedString, SHADOW } from './system/boundary.ts';
import { CR4_BITS, RESET_CR0 } from './system/control.ts';
import { type Cpuid, modelCpuid } from './system/cpuid.ts';
import { armed, DR6, dataBreakpoints, instructionBreakpoints } from './system/debug.ts';
import { raise, raiseDebug, raiseFault, TRAPS } from './system/exceptions.ts';
import { resetExtendedState } from './system/extended-state.ts';
import { LinearMemory } from './system/linear-memory.ts';
import { currentMode, modeName } from './system/mode.ts';
import { readMsr, readTsc, writeMsr } from './system/msrs.ts';
import type { PortBus } from './system/ports.ts';
import { resetProgram } from './system/reset.ts';
import { operandAddress, privilegeOf, U32, U64 } from './system/segmentation.ts';
import { type CpuOptions, type CpuStop, type InterruptSource, NO_DEVICES, NO_PORTS, type VmxExtension } from './system/surroundings.ts';
import { OPERATIONS } from './system/table.ts';
import type { Trace } from './trace.ts';
import { type DeliveredEvent, EVENT_TYPE, type VmxProcessor } from './vmx/processor.ts';

export type { CpuOptions, CpuStop, InterruptSource, VmxExtension } from './system/surroundings.ts';

/** One x86-64 processor. */
export class Cpu implements EngineHost, MmuHost, VmxProcessor {
  readonly memory: PhysicalMemory;
  readonly state: CpuState;
  readonly trace: Trace | null;
  readonly mmu: Mmu;
  readonly engine: Engine;
  readonly ports: PortBus;
  readonly bus: PhysicalBus;
  readonly apicId: number;
  /** Linear memory for TypeScript code. */
  readonly mem: LinearMemory;
  readonly physicalAddressBits = PHYSICAL_ADDRESS_BITS;
  /** Linear-address bits that paging can translate: 57 when there is 5-level paging. */
  readonly linearAddressBits: number;
  intercepts: Intercepts | null = null;
  vmx: VmxExtension | null = null;
  delivering: DeliveredEvent | null = null;
  /** The function behind CPUID. */
  cpuid: Cpuid = modelCpuid;
  /** The bits of CR4 that may be set. */
  cr4Bits = CR4_BITS;
  /** DR6 conditions of a #DB that an instruction is about to raise as a fault. */
  faultDebug = 0;

  readonly #boundary = new Boundary(this);
  #timer: { at: number; fire: () => void } | null = null;
  #stopRequested = false;
  // What the instruction under way leaves behind.
  #stepping = false; // TF was set before it
  #keepsRf = false; // it was an IRET, and RF is the one it loaded
  #breakpoints = { instructions: false, data: false, ports: false };
  #leaving: VmExit | null = null;

  constructor(options: CpuOptions) {
    const { memory, trace, ports = NO_PORTS, devices = NO_DEVICES, apicId = 0, linearAddressBits = LINEAR_ADDRESS_BITS } = options;
    this.memory = memory;
    this.trace = trace ?? null;
    this.ports = ports;
    this.bus = devices;
    this.apicId = apicId;
    this.linearAddressBits = linearAddressBits;
    if (linearAddressBits > LINEAR_ADDRESS_BITS) this.cr4Bits |= CR4.LA57;
    this.state = new CpuState(memory);
    this.mmu = new Mmu(this);
    this.mem = new LinearMemory(this);
    this.engine = new Engine(memory, this.state, this, options);
    this.reset();
  }

  get cpl(): number {
    return this.state.get32(OFFSET.CPL);
  }
  get pdptes(): BigUint64Array {
    return this.mmu.pdptes;
  }
  /** Instructions retired: virtual time. */
  get instructions(): number {
    return this.state.getNumber(OFFSET.ICOUNT);
  }

  // ## Power-up
  //
  // The first instruction is fetched from 16 bytes below 4 GiB, though the processor is in real mode, where no selector can name such an address. The
  // hidden base of CS is simply set so; the first far jump will fill it in the ordinary way, and the machine comes down to the first megabyte.

  /** The state after power-up. */
  reset(): void {
    const { state } = this;
    const now = state.get64(OFFSET.ICOUNT);
    state.u8.fill(0);
    state.set64(OFFSET.ICOUNT, now);
    state.set64(OFFSET.TSC_OFFSET, (U64 + 1n - now) & U64);
    resetProgram(this);
    // @clause x86.reset.control-registers
    state.set64(OFFSET.CR0, BigInt(RESET_CR0));
    state.set64(OFFSET.PAT, 0x0007040600070406n);
    state.set64(OFFSET.APIC_BASE, 0xfee00800n | (this.apicId === 0 ? 0x100n : 0n));
    state.set64(OFFSET.MISC_ENABLE, 1n);
    state.set64(OFFSET.XCR0, 1n);
    resetExtendedState(this);
    this.vmx?.reset();
    this.settle('reset');
  }

  /** Forgets whatever was under way, and what was derived from the registers. */
  settle(why: string): void {
    this.#boundary.clear();
    this.delivering = null;
    this.intercepts = null;
    this.mmu.flush(why);
    this.debugChanged();
    this.eventsChanged();
  }

  // ## Signals from outside

  setInterruptSource(source: InterruptSource | null): void {
    this.#boundary.interrupts = source;
    this.eventsChanged();
  }

  /** Raises a non-maskable interrupt. One can wait while another is being handled. */
  nmi(): void {
    this.#boundary.nmi = true;
    this.eventsChanged();
  }

  /** The INIT signal: the bootstrap processor starts over, another one waits for a start-up message. */
  init(): void {
    this.#boundary.init = true;
    this.eventsChanged();
  }

  /** The start-up message: where a waiting processor begins, in pages. Ignored by one that does not wait. */
  sipi(vector: number): void {
    if (this.state.get32(OFFSET.ACTIVITY) !== ACTIVITY.WAIT_FOR_SIPI) return;
    this.#boundary.sipi = vector & 0xff;
    this.eventsChanged();
  }

  /** Calls `fire` once `at` instructions have been retired, at a boundary. One timer at a time; a new one replaces the old. */
  setTimer(at: number, fire: () => void): void {
    this.#timer = { at, fire };
    this.eventsChanged();
  }

  /** Makes `run` return at the next boundary with `{kind: 'stop'}`: for devices that end the run. */
  requestStop(): void {
    this.#stopRequested = true;
    this.eventsChanged();
  }

  acknowledgeInterrupt(): number {
    return this.#boundary.interrupts?.acknowledge() ?? 0;
  }

  /** Something that matters at a boundary has changed: the engine is to stop at the next one. */
  eventsChanged(): void {
    this.state.set32(OFFSET.EVENTS, 1);
  }

  // ## Running

  /** Runs up to `maxInstructions`, or until there is a reason to stop. */
  run(maxInstructions = Number.POSITIVE_INFINITY): CpuStop {
    const limit = this.instructions + maxInstructions;
    for (;;) {
      try {
        const stop = this.#advance(limit);
        if (stop) return stop;
      } catch (exit) {
        if (!(exit instanceof VmExit)) throw exit;
        const stop = this.#leaveGuest(exit);
        if (stop) return stop;
      }
    }
  }

  #leaveGuest(exit: VmExit): CpuStop | null {
    if (!this.vmx) throw exit;
    expireShadow(this.state, 1);
    this.#boundary.debug = 0;
    this.#stepping = false;
    const outcome = this.vmx.exit(exit);
    this.#tick();
    if (outcome === 'typescript') return { kind: 'vmexit', exit };
    return outcome === 'abort' ? { kind: 'shutdown' } : null;
  }

  /** One boundary and what follows it. */
  #advance(limit: number): CpuStop | null {
    const { state } = this;
    state.set32(OFFSET.EVENTS, 0);
    this.#tick();
    expireShadow(this.state, 0);
    if (this.#stopRequested) {
      this.#stopRequested = false;
      return { kind: 'stop' };
    }
    if (this.vmx?.entryPending) {
      this.#completeEntry(this.vmx);
      return null;
    }
    if (this.#timer && this.instructions >= this.#timer.at) {
      const { fire } = this.#timer;
      this.#timer = null;
      fire();
    }
    if (this.#boundary.take()) return null;
    this.#watch();
    const activity = state.get32(OFFSET.ACTIVITY);
    if (activity !== ACTIVITY.ACTIVE) return this.#idle(activity);
    if (this.instructions >= limit) return { kind: 'deadline' };
    if (this.#breakpoints.instructions && !(state.get32(OFFSET.RFLAGS) & FLAG.RF)) {
      const hit = instructionBreakpoints(this, this.#linearRip());
      if (hit) {
        raiseDebug(this, hit);
        return null;
      }
    }
    return this.#execute(limit);
  }

  #linearRip(): bigint {
    const rip = this.state.slot(SLOT.RIP);
    return (this.state.get32(OFFSET.MODE) & MODE.CODE) === MODE.CODE64 ? rip : (rip + this.state.segBase(SEG.CS)) & U32;
  }

  // A halted processor is a processor for which time does not pass, unless something is due. Then time jumps there.
  #idle(activity: number): CpuStop | null {
    if (activity === ACTIVITY.SHUTDOWN) return { kind: 'shutdown' };
    if (activity === ACTIVITY.WAIT_FOR_SIPI) return { kind: 'wait-for-sipi' };
    if (this.#timer && this.intercepts) {
      this.state.setNumber(OFFSET.ICOUNT, Math.max(this.instructions, this.#timer.at));
      return null;
    }
    return { kind: 'halt' };
  }

  // VM entry may leave something to be done before the guest's first instruction.
  #completeEntry(vmx: VmxExtension): void {
    const event = vmx.takeInjection();
    if (event) {
      const { vector, type, errorCode, instructionLength } = event;
      if (type === EVENT_TYPE.NMI) this.state.set32(OFFSET.SHADOW, this.state.get32(OFFSET.SHADOW) | SHADOW.NMI);
      const returnTo = this.state.slot(SLOT.RIP) + BigInt(instructionLength);
      raise(this, { vector, type, errorCode, returnTo, resume: false }, instructionLength);
      if (vmx.monitorTrap) vmx.monitorTrapExit();
      return;
    }
    const conditions = vmx.takePendingDebug();
    if (conditions) raiseDebug(this, conditions);
  }

  // ## Executing
  //
  // Usually the engine is let go until something happens. Some conditions last for exactly one instruction (the shadow of STI or MOV SS, the resume
  // flag) or apply after every one (TF, the monitor trap flag, breakpoints); under these the engine is given a deadline of one.

  #execute(limit: number): CpuStop | null {
    const { state, intercepts } = this;
    const shadow = state.get32(OFFSET.SHADOW) & (SHADOW.STI | SHADOW.MOV_SS);
    const flags = state.get32(OFFSET.RFLAGS);
    const rip = state.slot(SLOT.RIP);
    const monitorTrap = this.vmx?.monitorTrap ?? false;
    // The resume flag means something only to breakpoints. A repeated string instruction that goes on after a page fault has it set in all of its iterations.
    const single = shadow !== 0 || (flags & FLAG.TF) !== 0 || monitorTrap || this.#breakpoints.instructions || this.#breakpoints.data;
    this.#stepping = (flags & FLAG.TF) !== 0;
    this.#keepsRf = false;
    const now = this.instructions;
    const until = single ? now + 1 : Math.min(limit, this.#timer?.at ?? Number.POSITIVE_INFINITY);
    state.setNumber(OFFSET.DEADLINE, Math.min(until, Number.MAX_SAFE_INTEGER));
    this.engine.oneIteration = single;
    const stop = this.engine.run();
    this.#tick();
    if (stop.kind === 'vmexit') return this.#leaveGuest(stop.exit);
    if (stop.kind === 'fault') {
      this.#boundary.debug = 0;
      this.#fault(stop.fault);
      if (monitorTrap && this.vmx?.monitorTrap) this.vmx.monitorTrapExit();
      return null;
    }
    if (!single) return null;
    // @clause x86.interrupt.sti-shadow
    if (shadow) state.set32(OFFSET.SHADOW, state.get32(OFFSET.SHADOW) & ~shadow);
    // A string instruction that repeats is not complete while RIP stays where it is, and keeps RF until it is.
    // @clause x86.debug.breakpoints
    if (flags & FLAG.RF && !this.#keepsRf) {
      if (state.slot(SLOT.RIP) !== rip) state.set32(OFFSET.RFLAGS, state.get32(OFFSET.RFLAGS) & ~FLAG.RF);
      else state.set64(OFFSET.RESUME_AT, state.get64(OFFSET.ICOUNT));
    }
    // Between two elements of a repeated instruction the handler sees RF set: the instruction has begun, and a breakpoint on it has been reported.
    if (
      this.#stepping &&
      state.slot(SLOT.RIP) === rip &&
      isRepeatedString(state, this.#linearRip(), (at) => this.#inspected(() => this.mem.read8(this.wrapLinear(at))))
    ) {
      state.set32(OFFSET.RFLAGS, flags | FLAG.RF);
      state.set64(OFFSET.RESUME_AT, state.get64(OFFSET.ICOUNT));
    }
    // @clause x86.debug.single-step
    if (this.#stepping && intercepts === this.intercepts) this.#boundary.debug |= DR6.mask.BS;
    if (monitorTrap && this.vmx?.monitorTrap) this.vmx.monitorTrapExit();
    return null;
  }

  #fault(fault: Fault): void {
    const conditions = this.faultDebug;
    this.faultDebug = 0;
    if (fault.vector === VECTOR.DB) raiseDebug(this, conditions);
    else if (!this.#deliverOrdinary(fault)) raiseFault(this, fault);
  }

  /** The same in one call, if nobody watches and the handler is reached without complications. */
  #deliverOrdinary({ vector, errorCode, cr2 }: Fault): boolean {
    const { state } = this;
    const watched = WATCH.TRACE | (vector === VECTOR.PF ? WATCH.PAGE_FAULTS : WATCH.HYPERVISOR);
    if (state.get32(OFFSET.WATCH) & watched || TRAPS.has(vector)) return false;
    if (!this.engine.library.deliver(vector, DELIVERY.RESUME, errorCode ?? -1, state.slot(SLOT.RIP))) return false;
    if (cr2 !== null) state.set64(OFFSET.CR2, BigInt.asUintN(64, cr2));
    this.eventDelivered();
    return true;
  }

  #tick(): void {
    if (this.trace) this.trace.now = this.instructions;
  }

  // ## What instructions tell the processor

  /** HLT has been executed. */
  halt(): void {
    this.state.set32(OFFSET.ACTIVITY, ACTIVITY.HLT);
    this.eventsChanged();
  }

  /** A triple fault. */
  shutdown(): void {
    this.state.set32(OFFSET.ACTIVITY, ACTIVITY.SHUTDOWN);
    this.eventsChanged();
  }

  /** An event has been delivered through the IDT: the processor is awake, and what inhibited interrupts for an instruction does no more. */
  eventDelivered(): void {
    this.state.set32(OFFSET.ACTIVITY, ACTIVITY.ACTIVE);
    endShadow(this.state);
    this.#stepping = false;
    this.#mayTakeMore();
  }

  // System calls come by the million, and leaving the engine costs more than the call. So the boundary is looked at only when there is something to see.
  #mayTakeMore(): void {
    this.#watch();
    if (this.state.get32(OFFSET.WATCH) & WATCH.PENDING) this.eventsChanged();
  }

  // Two of these in a row must not inhibit for ever: when something is waiting, the second shadow ends with the first.
  shadowSti(): void {
    beginShadow(this.state, SHADOW.STI);
    this.#mayTakeMore();
  }
  shadowMovSs(): void {
    beginShadow(this.state, SHADOW.MOV_SS);
    this.#mayTakeMore();
  }
  unblockNmi(): void {
    if (!(this.state.get32(OFFSET.SHADOW) & SHADOW.NMI)) return;
    this.state.set32(OFFSET.SHADOW, this.state.get32(OFFSET.SHADOW) & ~SHADOW.NMI);
    this.eventsChanged();
  }

  /** IRET has loaded RFLAGS. */
  flagsReturned(): void {
    this.#keepsRf = true;
    this.state.set64(OFFSET.RESUME_AT, this.state.get64(OFFSET.ICOUNT));
    const flags = this.state.get32(OFFSET.RFLAGS);
    if (flags & FLAG.TF) this.eventsChanged();
    else if (flags & FLAG.IF) this.#mayTakeMore();
  }

  /** POPF, CLAC or STAC has changed RFLAGS; `before` is what they were. */
  flagsChanged(before: number): void {
    const after = this.state.get32(OFFSET.RFLAGS);
    if ((after ^ before) & FLAG.AC) this.modeChanged();
    if (after & ~before & FLAG.TF) this.eventsChanged();
    if (after & ~before & FLAG.IF) this.#mayTakeMore();
  }

  /** SYSCALL and SYSRET: whether a single-step trap follows is decided by the flags that they have loaded. */
  stepByNewFlags(): void {
    this.#stepping = (this.state.get32(OFFSET.RFLAGS) & FLAG.TF) !== 0;
    if (this.#stepping) this.trapAfter(DR6.mask.BS);
    else this.#mayTakeMore();
  }

  /** A #DB is due after the present instruction. */
  trapAfter(conditions: number): void {
    this.#boundary.debug |= conditions;
    this.eventsChanged();
  }

  /** DR7 has changed. */
  debugChanged(): void {
    this.#breakpoints = armed(this.state.low32(OFFSET.DR7));
    this.modeChanged();
    this.eventsChanged();
  }

  // ## Modes

  /** Recomputes what is derived from segment registers, CR0, EFER and RFLAGS. */
  modeChanged(): void {
    const { state } = this;
    const flags = state.get32(OFFSET.RFLAGS);
    const cr0 = state.low32(OFFSET.CR0);
    const user = state.get32(OFFSET.CPL) === 3;
    const before = state.get32(OFFSET.MODE);
    const mode = currentMode(state);
    state.set32(OFFSET.MODE, mode);
    state.set32(OFFSET.CANONICAL_SHIFT, state.low32(OFFSET.CR4) & CR4.LA57 ? 64 - WIDE_LINEAR_ADDRESS_BITS : 64 - LINEAR_ADDRESS_BITS);
    // @clause x86.alignment-check
    const aligned = user && (cr0 & CR0.AM) !== 0 && (flags & FLAG.AC) !== 0;
    const slow = aligned || this.#breakpoints.data;
    this.mmu.inspect = slow ? this.#inspect : null;
    state.set32(OFFSET.TLB, this.mmu.selectBank(user, this.intercepts !== null, slow));
    // Where the ordinary system call or interrupt goes to and comes from; see engine/micro-ops/system.ts.
    const alignedUser = (cr0 & CR0.AM) !== 0 && (flags & FLAG.AC) !== 0;
    state.set32(OFFSET.BANK_SUPERVISOR, this.mmu.bank(false, this.#breakpoints.data));
    state.set32(OFFSET.BANK_USER, this.mmu.bank(true, this.#breakpoints.data || alignedUser));
    state.set32(OFFSET.WALKER, this.trace ? 0 : this.mmu.ordinary);
    this.#watch();
    if (this.trace && mode !== before && modeName(mode) !== modeName(before)) {
      this.#tick();
      this.trace.emit({ kind: 'mode', mode: modeName(mode) });
    }
  }

  /** Who wants to know of system instructions. */
  #watch(): void {
    const { intercepts } = this;
    const pending = (intercepts !== null && intercepts.watchesWindows !== false) || this.#boundary.waiting;
    const watch =
      (this.trace ? WATCH.TRACE : 0) |
      (intercepts ? WATCH.HYPERVISOR : 0) |
      (intercepts && intercepts.watchesPageFaults !== false ? WATCH.PAGE_FAULTS : 0) |
      (intercepts && intercepts.watchesTranslations !== false ? WATCH.TRANSLATIONS : 0) |
      (intercepts && intercepts.watchesClock !== false ? WATCH.CLOCK : 0) |
      (pending ? WATCH.PENDING : 0) |
      (this.#breakpoints.ports ? WATCH.PORTS : 0);
    this.state.set32(OFFSET.WATCH, watch);
  }

  /** Each access is to be looked at: the bank in use is the one that is always empty. */
  get #slowAccess(): boolean {
    return this.state.get32(OFFSET.TLB) === this.mmu.emptyBank;
  }

  // @clause x86.long.state
  // @clause x86.compat.operands
  /** A linear address cut to the width that the mode has. */
  wrapLinear(linear: bigint): bigint {
    return this.state.low32(OFFSET.EFER) & EFER.LMA ? linear & U64 : linear & U32;
  }

  // ## Services for the engine

  fetch(linear: bigint): number {
    this.#tick();
    return this.mmu.fetch(BigInt.asUintN(64, linear), this.cpl === 3);
  }

  translate(linear: bigint, bytes: number, access: number): number | Fault | VmExit {
    this.#tick();
    const at = BigInt.asUintN(64, linear);
    if (this.#slowAccess) this.#inspect(at, bytes, access);
    return this.mmu.translate(at, bytes, access, this.cpl === 3, !this.#slowAccess);
  }

  /** What the hit path leaves out. The largest operands that are expected to be aligned have eight bytes; SSE's have rules of their own. */
  readonly #inspect = (linear: bigint, bytes: number, access: number): void => {
    const aligned = bytes > 8 || (linear & BigInt(bytes - 1)) === 0n;
    const { state } = this;
    if (!aligned && this.cpl === 3 && state.low32(OFFSET.CR0) & CR0.AM && state.get32(OFFSET.RFLAGS) & FLAG.AC) throw new Fault(VECTOR.AC, 0);
    if (!this.#breakpoints.data) return;
    const hit = dataBreakpoints(this, linear, bytes, access !== 0);
    if (hit) this.trapAfter(hit);
  };

  readSlow(linear: bigint, bytes: number, access: number): bigint {
    this.#tick();
    return this.#inspected(() => this.mmu.read(BigInt.asUintN(64, linear), bytes, privilegeOf(this.cpl), access));
  }

  writeSlow(linear: bigint, bytes: number, value: bigint): void {
    this.#tick();
    this.#inspected(() => this.mmu.write(BigInt.asUintN(64, linear), bytes, BigInt.asUintN(8 * bytes, value), privilegeOf(this.cpl)));
  }

  /** Makes an access that `translate` has already looked at. */
  #inspected<T>(access: () => T): T {
    const { mmu } = this;
    const { inspect } = mmu;
    mmu.inspect = null;
    try {
      return access();
    } finally {
      mmu.inspect = inspect;
    }
  }

  portRead(port: number, bytes: number): number {
    this.#tick();
    return this.ports.read(port, bytes);
  }

  portWrite(port: number, bytes: number, value: number): void {
    this.#tick();
    this.ports.write(port, bytes, value);
  }

  system(op: SystemOp, insn: Instruction): VmExit | null {
    this.#tick();
    expireShadow(this.state, 1);
    this.#leaving = null;
    OPERATIONS[op](this, insn);
    return this.#leaving;
  }

  /** The hypervisor has been asked, and this is its answer. True: the instruction ends in a VM exit, and has to return before it has changed anything. */
  leaves(exit: VmExit | null | undefined): boolean {
    if (exit) this.#leaving = exit;
    return Boolean(exit);
  }

  protectCode(hpa: number): void {
    this.mmu.protectCode(hpa - (hpa % 4096));
  }

  // ## Services for the MMU and for VMX

  ept(): EptContext | null {
    return this.intercepts?.ept ?? null;
  }
  holdsCode(hpa: number): boolean {
    return this.engine.holdsCode(hpa);
  }
  codeWritten(hpa: number, bytes: number): void {
    this.engine.codeWritten(hpa, bytes);
  }
  mappingsChanged(): void {
    this.engine.flush();
  }
  flushTranslations(why: string): void {
    this.mmu.flush(why);
  }
  operandAddress(insn: Instruction, bytes: number, access: 'read' | 'write'): bigint {
    return operandAddress(this, insn, bytes, access === 'write');
  }
  readMsr(index: number): bigint {
    return readMsr(this, index);
  }
  writeMsr(index: number, value: bigint): void {
    writeMsr(this, index, value);
  }
  /** The time stamp counter. */
  get tsc(): bigint {
    return readTsc(this);
  }
  /** All of RFLAGS. */
  get rflags(): number {
    return readFlags(this.state);
  }
}

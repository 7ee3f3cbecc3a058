// # KVM_RUN
//
// The inner loop. User space has one loop around `ioctl(KVM_RUN)`; inside that call the kernel has another, around VM entry. Most exits never leave
// it: the kernel answers CPUID, maps a page, moves a control register, and enters the guest again. Only what it cannot answer ends the call.
//
// Three worlds therefore, and two doors between them. Crossing the inner door (entry and exit) costs about a thousand cycles on current processors;
// crossing the outer one too (system call, scheduler, the VMM's own code) several thousand. Nearly every performance idea of the last fifteen years
// of KVM is the same idea: keep an event from passing a door.

import { OFFSET } from '../../01-hardware-background/state.ts';
import { exitReasonName } from '../../01-hardware-background/vmx/exit-reasons.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { MP_STATE } from '../../02-kvm-objects/abi/events.ts';
import { EXIT, exitName, INTERNAL_ERROR, KvmRun, RunFailEntry, RunInternal } from '../../02-kvm-objects/abi/exits.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { ExitServices } from '../../02-kvm-objects/soft/second-stage.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { enterWithDebugRegisters, leaveWithDebugRegisters } from './debug.ts';
import { completeEvents, hasEvents, injectPending, readyForInterrupt, wantsWindow } from './events.ts';
import { dispatchExit, exitServices } from './exits.ts';
import type { VcpuLoop } from './index.ts';

/** What is left to do when user space calls again. 1: go on into the guest; 0: another exit; negative: an errno. */
type Completion = () => number;

const head = KvmRun.fields;
const ENTRY_FAILED = 0x8000_0000;
const MAX_CR8 = 15n;
const IF = 1 << 9;
/** How much of KVM_RUN's bound one wait uses up: a guest that is woken by timers, and never takes their interrupt, must not stay for ever. */
const BLOCK_EXITS = 1000;
/** In place of a handler's answer: the guest is to be looked at. No errno. */
const CUT = Number.NEGATIVE_INFINITY;
const U64 = 0xffff_ffff_ffff_ffffn;

/** What one KVM_RUN has used up of its bound. */
interface Turn {
  /** Instructions executed by all when it began. */
  readonly start: number;
  /** Ways round the loop. */
  exits: number;
}

/** What KVM_RUN keeps between two calls for one vCPU. */
export class VcpuRun {
  readonly vcpu: SoftVcpu;
  readonly loop: VcpuLoop;
  /** For the handlers of `vm.mmu`. */
  readonly services: ExitServices;
  completion: Completion | null = null;
  /** The turn that was left in the middle. */
  #paused: Turn | null = null;

  constructor(loop: VcpuLoop, vcpu: SoftVcpu) {
    this.loop = loop;
    this.vcpu = vcpu;
    this.services = exitServices(this);
  }

  /** Notes the result of queueing an exception, and goes on: a triple fault is found before the next entry. */
  queue(queued: boolean): 1 {
    if (!queued) this.vcpu.events.tripleFault = true;
    return 1;
  }

  // ## The outer door

  /** The request itself. Linux: `kvm_arch_vcpu_ioctl_run()`. */
  run(): number {
    const { vcpu } = this;
    const view = vcpu.runView;
    if (this.#paused) return this.#goOn(this.#paused);
    vcpu.hasRun = true;
    head.flags.set(view, 0, 0);
    if (vcpu.mpState === MP_STATE.KVM_MP_STATE_UNINITIALIZED) return this.#awaitInit();
    const synced = this.loop.loadSyncRegs(vcpu);
    if (synced < 0) return synced;
    const cr8 = head.cr8.get(view, 0);
    if (!vcpu.interruptController) {
      if (cr8 > MAX_CR8) return -ERRNO.EINVAL;
      vcpu.cr8 = cr8;
    }
    // The VMM had its hands on guest memory, and may have written code.
    if (!vcpu.vm.hardware.toldOfStores) vcpu.vm.hardware.cpu.engine.memoryChanged();

    let result = 1;
    if (this.completion) {
      const complete = this.completion;
      this.completion = null;
      result = complete();
    }
    // @clause kvm.run.immediate-exit
    if (result > 0) result = head.immediate_exit.get(view, 0) ? -ERRNO.EINTR : this.#innerLoop({ start: vcpu.vm.hardware.instructions, exits: 0 });
    return this.#return(result);
  }

  #return(result: number): number {
    if (this.#paused) return -ERRNO.EINTR;
    if (result === 0) this.#charge();
    return this.#leave(result);
  }

  /** Continues a call that was left for a pause. Nothing has happened since. */
  #goOn(turn: Turn): number {
    this.#paused = null;
    this.loop.paused = false;
    return this.#return(this.#innerLoop(turn));
  }

  // Time is counted in instructions, and the VMM executes none that count. Taken at its word that makes its work free, and a guest that polls a device pays
  // for every microsecond of waiting with dozens of trips to the VMM, where on a real machine the trip itself would take the microsecond. So a kernel can be told
  // what an access costs that user space answers.

  #charge(): void {
    const { accessTicks, kernel } = this.loop;
    const { exitReason } = this.vcpu;
    if (accessTicks > 0 && (exitReason === EXIT.KVM_EXIT_IO || exitReason === EXIT.KVM_EXIT_MMIO)) kernel.hardware.idle(accessTicks);
  }

  #leave(result: number): number {
    const { vcpu } = this;
    this.#tellUser();
    this.loop.storeSyncRegs(vcpu);
    vcpu.trace?.emit({ kind: 'kvm_userspace_exit', vcpu: vcpu.id, reason: result === -ERRNO.EINTR ? 'EINTR' : exitName(vcpu.exitReason) });
    return Math.min(result, 0);
  }

  /** The part of the shared page that is valid after every return. Linux: `post_kvm_run_save()`. */
  #tellUser(): void {
    const { vcpu } = this;
    const view = vcpu.runView;
    head.if_flag.set(view, 0, vcpu.vm.hardware.read32(FIELD.GUEST_RFLAGS) & IF ? 1 : 0);
    head.ready_for_interrupt_injection.set(view, 0, vcpu.interruptController?.picInKernel || readyForInterrupt(vcpu) ? 1 : 0);
    head.cr8.set(view, 0, vcpu.cr8);
    head.apic_base.set(view, 0, vcpu.apicBase);
  }

  // ## The inner loop
  //
  // Two things end it besides the guest. A signal, because KVM_RUN is a system call and must not keep a thread from its signals; and here, a bound
  // on instructions, which plays the part of the host's scheduler: a browser page or a test has one thread, and a guest that never exits must not
  // keep it.

  /** Linux: `vcpu_run()`. */
  #innerLoop(turn: Turn): number {
    const { vcpu, loop } = this;
    const { clock, hardware } = loop.kernel;
    for (; ; turn.exits++) {
      clock.timers.runDue();
      // An exit counts as an instruction, so that a guest that only ever exits comes to an end as well.
      const left = loop.instructionBound - (hardware.instructions - turn.start) - turn.exits;
      // @clause kvm.run.eintr
      if (left <= 0 || loop.takeSignal(vcpu) || clock.takeAlarm()) {
        vcpu.exitReason = EXIT.KVM_EXIT_INTR;
        return -ERRNO.EINTR;
      }
      const room = loop.pacer?.room() ?? Number.POSITIVE_INFINITY;
      if (room <= 0) return this.#pause(turn);
      const runs = vcpu.mpState === MP_STATE.KVM_MP_STATE_RUNNABLE;
      const result = runs ? this.#enterGuest(clock.stepsUntilNext(left), room) : this.#block();
      if (result === CUT) return this.#pause(turn);
      if (result <= 0) return result;
      if (!runs) turn.exits += BLOCK_EXITS;
      // @clause kvm.exit.irq-window
      if (wantsWindow(vcpu) && readyForInterrupt(vcpu)) {
        vcpu.exitReason = EXIT.KVM_EXIT_IRQ_WINDOW_OPEN;
        return 0;
      }
    }
  }

  // ## Pauses
  //
  // A reader wants to stop a guest after any instruction, and the guest, its kernel and its monitor must not notice: they are what the reader looks at.
  // A signal would be noticed. So whoever drives this kernel may give it a *pacer*, which is asked before each entry how far the guest may go. When it
  // has gone that far the call is left as it stands, and the next one continues it: same turn, same bound. To be looked at, a vCPU has to be out of the
  // guest; that exit and the entry that makes up for it are not counted, and the pacer is told to look away.

  #pause(turn: Turn): number {
    this.#paused = turn;
    this.loop.paused = true;
    // A monitor that looks here before its call would think that it may inject.
    head.ready_for_interrupt_injection.set(this.vcpu.runView, 0, 0);
    return -ERRNO.EINTR;
  }

  // ## Waiting in the kernel
  //
  // With a local APIC in the kernel, a processor that waits for an interrupt waits here: Linux puts the thread to sleep until something wakes it. There
  // is one thread for all processors of this kernel. If another one has work, the thread is needed there, and KVM_RUN returns, as it would for a
  // signal. If none has, nothing can happen before the next timer, and so it happens now.

  // @clause kvm.halt.in-kernel
  /** Linux: `vcpu_block()`. */
  #block(): number {
    const { vcpu, loop } = this;
    const { clock } = loop.kernel;
    vcpu.interruptController?.acceptStartup();
    if (vcpu.mpState === MP_STATE.KVM_MP_STATE_RUNNABLE) return 1;
    if (vcpu.mpState === MP_STATE.KVM_MP_STATE_HALTED && hasEvents(vcpu)) {
      vcpu.mpState = MP_STATE.KVM_MP_STATE_RUNNABLE;
      return 1;
    }
    const { next } = clock;
    if (next === null || this.#othersRun()) {
      vcpu.exitReason = EXIT.KVM_EXIT_INTR;
      return -ERRNO.EINTR;
    }
    const before = clock.now();
    clock.advance(next);
    if (vcpu.trace) {
      vcpu.trace.now = vcpu.vm.hardware.ticks;
      vcpu.trace.emit({ kind: 'kvm_vcpu_wakeup', ns: clock.now() - before, waited: true });
    }
    return 1;
  }

  /** Another processor of this VM has something to do. */
  #othersRun(): boolean {
    const { vcpu } = this;
    let found = false;
    for (const other of vcpu.vm.vcpus.values()) {
      if (other === vcpu) continue;
      const waits = other.mpState !== MP_STATE.KVM_MP_STATE_RUNNABLE;
      if (waits && other.mpState !== MP_STATE.KVM_MP_STATE_HALTED) found = other.interruptController?.startupPending === true;
      else {
        other.load(); // what it could take is in its VMCS
        found = !waits || hasEvents(other);
      }
      if (found) break;
    }
    vcpu.load();
    return found;
  }

  // A processor that has never been started is not even asleep. On Linux the thread waits for INIT; then, and when a signal comes, the answer is an
  // error, and the program calls again.

  // @clause kvm.run.uninitialized
  #awaitInit(): number {
    const { vcpu, loop } = this;
    if (head.immediate_exit.get(vcpu.runView, 0)) return this.#leave(-ERRNO.EINTR);
    vcpu.interruptController?.acceptStartup();
    if (!loop.takeSignal(vcpu) && !loop.kernel.clock.takeAlarm()) return this.#leave(-ERRNO.EAGAIN);
    vcpu.exitReason = EXIT.KVM_EXIT_INTR;
    return this.#leave(-ERRNO.EINTR);
  }

  // ## The inner door

  /** One entry, one exit, and the exit's handler; {@link CUT} when the guest used up `room` first. Linux: `vcpu_enter_guest()`. */
  #enterGuest(instructions: number, room: number): number {
    const { vcpu } = this;
    const { pacer } = this.loop;
    const { hardware } = vcpu.vm;
    const { trace } = vcpu;
    if (vcpu.events.tripleFault) {
      vcpu.events.tripleFault = false;
      vcpu.exitReason = EXIT.KVM_EXIT_SHUTDOWN;
      return 0;
    }
    for (const check of vcpu.vm.entryChecks) {
      const checked = check(vcpu);
      if (checked <= 0) return checked;
    }
    // @clause kvm.init.clears
    vcpu.interruptController?.acceptStartup();
    if (vcpu.mpState !== MP_STATE.KVM_MP_STATE_RUNNABLE) return 1;
    const prepared = vcpu.vm.mmu.prepareEntry(vcpu);
    if (prepared <= 0) return prepared;
    injectPending(vcpu);
    enterWithDebugRegisters(vcpu);
    vcpu.loadRegisters();
    if (trace) {
      trace.now = hardware.cpu.state.getNumber(OFFSET.ICOUNT);
      trace.emit({ kind: 'kvm_entry', vcpu: vcpu.id, rip: vcpu.rip });
    }
    const interpreted = vcpu.vm.mmu.interpret?.(vcpu, instructions) ?? null;
    const outcome = interpreted ?? (vcpu.launched ? hardware.vmx.vmresume() : hardware.vmx.vmlaunch());
    if (outcome === 'failValid' || outcome === 'failInvalid') return this.#failEntry(hardware.read32(FIELD.VM_INSTRUCTION_ERROR));
    if (outcome === 'exited') return this.#failEntry(hardware.read32(FIELD.VM_EXIT_REASON));
    const stop = outcome !== 'entered' ? 'dead' : interpreted !== null ? 'exit' : hardware.runGuest(instructions, pacer ? { room, pacer } : null);
    if (trace) trace.now = hardware.cpu.state.getNumber(OFFSET.ICOUNT);
    if (stop === 'dead') return this.#failEntry(ENTRY_FAILED);
    vcpu.launched = true;
    vcpu.saveRegisters();
    leaveWithDebugRegisters(vcpu, stop === 'cut');
    if (stop === 'cut') {
      completeEvents(vcpu);
      return CUT;
    }
    const reason = hardware.read32(FIELD.VM_EXIT_REASON);
    if (trace) {
      const qualification = hardware.read(FIELD.EXIT_QUALIFICATION);
      trace.emit({ kind: 'kvm_exit', vcpu: vcpu.id, reason: exitReasonName(reason), rip: vcpu.rip, qualification });
    }
    const vectoring = hardware.read32(FIELD.IDT_VECTORING_INFO_FIELD);
    completeEvents(vcpu);
    return dispatchExit(this, reason & 0xffff, vectoring);
  }

  // @clause kvm.run.fail-entry
  /** The hardware refused the state. Nothing of the guest ran. Linux: the head of `__vmx_handle_exit()`. */
  #failEntry(reason: number): 0 {
    const { vcpu } = this;
    vcpu.exitReason = EXIT.KVM_EXIT_FAIL_ENTRY;
    RunFailEntry.store(vcpu.runView, 0, { hardware_entry_failure_reason: BigInt(reason >>> 0) & U64, cpu: 0 });
    return 0;
  }

  /** KVM_EXIT_INTERNAL_ERROR with words of context. */
  internalError(suberror: keyof typeof INTERNAL_ERROR, ...data: readonly number[]): 0 {
    const { vcpu } = this;
    vcpu.exitReason = EXIT.KVM_EXIT_INTERNAL_ERROR;
    RunInternal.store(vcpu.runView, 0, { suberror: INTERNAL_ERROR[suberror], ndata: data.length });
    data.forEach((word, n) => {
      vcpu.runView.setBigUint64(RunInternal.fields.data.at(n), BigInt(word), true);
    });
    return 0;
  }
}

// # Installing the loop
//
// The previous chapter's kernel has vCPUs that can be examined but not run. This module adds the verb, and the requests that only make sense with
// it: interrupts and NMIs to inject, a debugger, a signal mask. Nothing in the earlier chapter changes.

import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { GUESTDBG, KvmInterrupt, KvmSignalMask } from '../../02-kvm-objects/abi/events.ts';
import { KvmRun } from '../../02-kvm-objects/abi/exits.ts';
import { IOCTL } from '../../02-kvm-objects/abi/ioctls.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { Pacer } from '../../02-kvm-objects/soft/hardware.ts';
import { SoftKernel, type SoftKernelOptions } from '../../02-kvm-objects/soft/soft-kernel.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { setGuestDebug, writeExceptionBitmap } from './debug.ts';
import { Emulator } from './emulator.ts';
import { VcpuRun } from './run.ts';
import { TaskSwitcher } from './task-switch.ts';

/** KVM_NR_INTERRUPTS. */
const VECTORS = 256;
/** Bytes of a kernel `sigset_t`. */
const SIGSET_BYTES = 8;
/** Instructions that one KVM_RUN may execute: some milliseconds of real time. */
const DEFAULT_BOUND = 1_000_000;
/** The signal that VMMs use to kick a vCPU thread. */
const SIGUSR1 = 10;

// `KVM_CAP_SYNC_REGS` saves system calls: registers travel in the shared page. A bit in `kvm_valid_regs` asks for a group after the run, one in
// `kvm_dirty_regs` gives a group before it.

const SYNC = [
  { bit: 1n, at: 304, bytes: 144, get: IOCTL.KVM_GET_REGS, set: IOCTL.KVM_SET_REGS },
  { bit: 2n, at: 448, bytes: 312, get: IOCTL.KVM_GET_SREGS, set: IOCTL.KVM_SET_SREGS },
  { bit: 4n, at: 760, bytes: 64, get: IOCTL.KVM_GET_VCPU_EVENTS, set: IOCTL.KVM_SET_VCPU_EVENTS },
] as const;
const SYNC_ALL = SYNC.reduce((all, { bit }) => all | bit, 0n);

export interface LoopOptions {
  /** Instructions after which KVM_RUN comes back by itself. */
  readonly instructionBound?: number;
  /** What an access takes that user space answers, in ticks of the time stamp counter. Default: no time at all. */
  readonly accessTicks?: number;
}

/** What the loop adds to one kernel. */
export class VcpuLoop {
  readonly kernel: SoftKernel;
  readonly emulator: Emulator;
  readonly taskSwitcher: TaskSwitcher;
  /** KVM_RUN comes back with EINTR after so many instructions. */
  instructionBound: number;
  /** What an access takes that user space answers, in ticks of the time stamp counter. */
  readonly accessTicks: number;
  /** Who decides how far a guest goes at a time. */
  pacer: Pacer | null = null;
  /** The last KVM_RUN did not return: it was left for a pause, and the next one continues it. Its answer means nothing. */
  paused = false;
  readonly #runs = new WeakMap<SoftVcpu, VcpuRun>();
  readonly #signals = new WeakMap<SoftVcpu, bigint>(); // pending, one bit for each
  readonly #masks = new WeakMap<SoftVcpu, bigint>(); // blocked during KVM_RUN

  constructor(kernel: SoftKernel, { instructionBound = DEFAULT_BOUND, accessTicks = 0 }: LoopOptions) {
    this.kernel = kernel;
    this.instructionBound = instructionBound;
    this.accessTicks = accessTicks;
    this.emulator = new Emulator(kernel.hardware);
    this.taskSwitcher = new TaskSwitcher(kernel.hardware);
  }

  run(vcpu: SoftVcpu): number {
    let run = this.#runs.get(vcpu);
    if (!run) {
      run = new VcpuRun(this, vcpu);
      this.#runs.set(vcpu, run);
      writeExceptionBitmap(vcpu);
    }
    return run.run();
  }

  // ## Signals
  //
  // There is one thread here, so "send the vCPU's thread a signal" is a note that the next boundary finds. A mask given by KVM_SET_SIGNAL_MASK says
  // which signals count while the guest runs: with it, a signal that the thread blocks everywhere else can still end a run, and none can slip in
  // between the VMM's last look and its call.

  /** `tgkill` of the thread that runs the vCPU behind `fd`. False when `fd` is no vCPU. */
  signal(fd: number, signal = SIGUSR1): boolean {
    const vcpu = this.kernel.vcpuBehind(fd);
    if (!vcpu) return false;
    this.#signals.set(vcpu, (this.#signals.get(vcpu) ?? 0n) | (1n << BigInt(signal - 1)));
    return true;
  }

  /** Takes the signals that may end a run; false when there is none. */
  takeSignal(vcpu: SoftVcpu): boolean {
    const pending = this.#signals.get(vcpu);
    if (!pending) return false;
    const blocked = this.#masks.get(vcpu) ?? 0n;
    if ((pending & ~blocked) === 0n) return false;
    this.#signals.set(vcpu, pending & blocked);
    return true;
  }

  setSignalMask(vcpu: SoftVcpu, arg: number | Uint8Array): number {
    if (typeof arg === 'number') {
      if (arg !== 0) return -ERRNO.EFAULT;
      this.#masks.delete(vcpu);
      return 0;
    }
    if (arg.length < KvmSignalMask.bytes) return -ERRNO.EFAULT;
    // @clause kvm.signal-mask.length
    if (KvmSignalMask.decode(arg).len !== SIGSET_BYTES) return -ERRNO.EINVAL;
    if (arg.length < KvmSignalMask.bytes + SIGSET_BYTES) return -ERRNO.EFAULT;
    this.#masks.set(vcpu, new DataView(arg.buffer, arg.byteOffset).getBigUint64(KvmSignalMask.bytes, true));
    return 0;
  }

  // ## Registers in the shared page

  /** Takes the groups that the VMM marked dirty. -EINVAL for a group that does not exist. */
  loadSyncRegs(vcpu: SoftVcpu): number {
    const view = vcpu.runView;
    const dirty = KvmRun.fields.kvm_dirty_regs.get(view, 0);
    const valid = KvmRun.fields.kvm_valid_regs.get(view, 0);
    if (dirty === 0n && valid === 0n) return 0;
    // @clause kvm.run.sync-regs
    if ((dirty | valid) & ~SYNC_ALL) return -ERRNO.EINVAL;
    for (const { bit, at, bytes, set } of SYNC) {
      if (!(dirty & bit)) continue;
      const result = this.kernel.vcpuRequests.call(vcpu, set, vcpu.run.subarray(at, at + bytes));
      if (result < 0) return result;
    }
    KvmRun.store(view, 0, { kvm_dirty_regs: 0n });
    return 0;
  }

  storeSyncRegs(vcpu: SoftVcpu): void {
    const valid = KvmRun.fields.kvm_valid_regs.get(vcpu.runView, 0);
    if (valid === 0n) return;
    for (const { bit, at, bytes, get } of SYNC) if (valid & bit) this.kernel.vcpuRequests.call(vcpu, get, vcpu.run.subarray(at, at + bytes));
  }
}

/** Adds the vCPU loop to a kernel. */
function installVcpuLoop(kernel: SoftKernel, options: LoopOptions): VcpuLoop {
  const loop = new VcpuLoop(kernel, options);
  const on = kernel.vcpuRequests;
  // @clause kvm.run.no-argument
  on.onNumber('KVM_RUN', (vcpu, arg) => (arg === 0 ? loop.run(vcpu) : -ERRNO.EINVAL));
  on.onStruct('KVM_INTERRUPT', (vcpu, _bytes, view) => {
    const { irq } = KvmInterrupt.load(view);
    // @clause kvm.interrupt.vector
    if (irq >= VECTORS) return -ERRNO.EINVAL;
    if (vcpu.interruptController) return vcpu.interruptController.queueExternal(irq);
    vcpu.events.interrupt = { injected: true, vector: irq, soft: false };
    return 0;
  });
  on.onNumber('KVM_NMI', (vcpu) => {
    // One may be under way and one waiting; a third is lost, as on a processor.
    vcpu.events.nmi.pending = Math.min(vcpu.events.nmi.pending + 1, 2);
    return 0;
  });
  on.onStruct('KVM_SET_GUEST_DEBUG', setGuestDebug);
  on.onAny('KVM_SET_SIGNAL_MASK', (vcpu, arg) => loop.setSignalMask(vcpu, arg));
  for (const [capability, value] of [
    [CAP.KVM_CAP_HLT, 1],
    [CAP.KVM_CAP_USER_NMI, 1],
    [CAP.KVM_CAP_IMMEDIATE_EXIT, 1],
    [CAP.KVM_CAP_SYNC_REGS, Number(SYNC_ALL)],
    [CAP.KVM_CAP_SET_GUEST_DEBUG, 1],
    [CAP.KVM_CAP_SET_GUEST_DEBUG2, Object.values(GUESTDBG).reduce((all, mask) => all | mask, 0)],
    [CAP.KVM_CAP_X86_ROBUST_SINGLESTEP, 1],
    [CAP.KVM_CAP_INTERNAL_ERROR_DATA, 1],
    [CAP.KVM_CAP_MEMORY_FAULT_INFO, 1],
  ] as const)
    kernel.capabilities.set(capability, value);
  return loop;
}

/** A kernel that can run guests: chapter 2's objects with this chapter's loop. */
export class RunnableKernel extends SoftKernel {
  readonly loop: VcpuLoop;

  constructor(options: SoftKernelOptions & LoopOptions = {}) {
    super(options);
    this.loop = installVcpuLoop(this, options);
  }

  /** KVM_RUN comes back with EINTR after so many guest instructions. */
  get instructionBound(): number {
    return this.loop.instructionBound;
  }
  set instructionBound(instructions: number) {
    this.loop.instructionBound = instructions;
  }
}

/** The software kernel, ready for use. */
export const softKernel = (options: SoftKernelOptions & LoopOptions = {}): RunnableKernel => new RunnableKernel(options);

// # Putting a machine together
//
// A virtual machine monitor begins in the same seven steps, whichever it is: open the device, create a VM, give it memory, create processors,
// tell each what CPUID shall say, load a program, set the first processor's registers. What differs between monitors is how they then *run*;
// so this class stops short of that, and two others take it from here: one runs the processors in turn in the calling thread, the other gives each a thread
// of its own.

import { assert, PAGE_BYTES } from '../01-hardware-background/physical-memory.ts';
import type { Trace } from '../01-hardware-background/trace.ts';
import { MP_STATE } from '../02-kvm-objects/abi/events.ts';
import type { TimerQueue } from '../02-kvm-objects/clock.ts';
import type { Kernel } from '../02-kvm-objects/kernel.ts';
import { Kvm, type Vcpu, type Vm } from '../02-kvm-objects/kvm.ts';
import type { CpuidEntry } from '../02-kvm-objects/vcpu-state.ts';
import type { Attention } from './attention.ts';
import type { Chassis, End, Outcome } from './chassis.ts';
import { type BootPlan, type DoorName, type Firmware, planBoot } from './doors.ts';
import { Platform } from './platform.ts';
import { powerOnState } from './power-on.ts';

/** A part of the machine's memory and where the guest finds it. */
interface SlotPlan {
  readonly slot: number;
  readonly gpa: number;
  /** Within the one allocation that all of the machine's memory is. */
  readonly offset: number;
  readonly bytes: number;
  /** KVM_MEM bits. */
  readonly flags?: number;
}

/** Memory that is more than one piece from address 0. */
export interface MemoryLayout {
  /** What to allocate. */
  readonly bytes: number;
  /** How much of it, from its start, is the guest's memory from address 0: what a loader may fill. */
  readonly lowBytes: number;
  readonly slots: readonly SlotPlan[];
}

/** A board half made: everything but its processors. */
export interface BareBoard {
  readonly kernel: Kernel;
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly ram: Uint8Array;
  /** Where the allocation is in this program. */
  readonly hva: number;
}

/** What a machine may say about itself; each answer has a default, and the defaults are the small machine. */
export interface BoardOptions<C extends Chassis = Platform> {
  readonly kernel: Kernel;
  /** From address 0; a multiple of the page size, at least 1 MiB. Without `layout`. */
  readonly ramBytes?: number;
  readonly layout?: MemoryLayout;
  readonly chassis?: C;
  /** Called when VM and memory exist and no processor does: an interrupt controller has to be made then. */
  readonly prepare?: (board: BareBoard) => void;
  /** What CPUID says to processor `id`, from what it would say. */
  readonly cpuid?: (entries: readonly CpuidEntry[], id: number, count: number) => readonly CpuidEntry[];
  /** Called for each processor whenever a program is loaded, before it gets the program's state: what firmware would have set in it. */
  readonly start?: (vcpu: Vcpu) => void;
  /** Whether {@link Board.reset} will be used: the state at power-on is then kept. */
  readonly resettable?: boolean;
  /** The devices' timers, over the kernel's clock. */
  readonly timers?: TimerQueue | null;
  readonly vcpus?: number;
  readonly trace?: Trace | null;
  /** What waits at the serial port when the guest starts. */
  readonly input?: Iterable<number>;
  /** Called for each byte that the guest sends to the serial port. */
  readonly onByte?: ((byte: number) => void) | null;
}

interface LoadOptions extends Firmware {
  readonly door?: DoorName;
  readonly commandLine?: string;
  readonly initrd?: Uint8Array;
  readonly flatGpa?: number;
}

/** What a run came to. */
export interface RunResult {
  readonly end: End;
  /** The debug-exit status, when that was the end. */
  readonly exitCode: number | null;
  /** One line about the end, for people. */
  readonly detail: string;
  /** Everything that came out of the serial port. */
  readonly console: Uint8Array;
  /** Returns from KVM_RUN, by exit reason. */
  readonly exits: Readonly<Record<string, number>>;
}

const DEFAULT_RAM_BYTES = 16 << 20;
/** Memory must end below the device window, which begins with the scratch page. */
const RAM_LIMIT_BYTES = 0xc000_0000;

/** Where Intel's real mode may put its helper pages: at the top of the 32-bit space, where firmware would be. */
const TSS_GPA = 0xfffbd000;

/** In EDX's upper half: a Ringbook payload then knows that it runs on a second processor, with the number in the lower half. */
const SECOND_PROCESSOR = 0x5242_0000n;

export class Board<C extends Chassis = Platform> {
  readonly kernel: Kernel;
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly vcpus: readonly Vcpu[];
  /** The machine's memory, live. The guest's address 0 is its start. */
  readonly ram: Uint8Array;
  readonly hva: number;
  readonly platform: C;
  readonly trace: Trace | null;
  readonly timers: TimerQueue | null;
  /** What waits for each processor. */
  protected readonly attention: readonly Attention[];
  readonly #lowBytes: number;
  readonly #start: (vcpu: Vcpu) => void;
  readonly #powerOn: readonly (() => void)[];
  #plan: BootPlan | null = null;
  #alarm: number | null = null;
  #inGuest = false;
  /** How to take back what has been made so far; run from the end. */
  #undo: (() => void)[] = [];
  #answering = 0;

  /** @throws Errno naming the request that the kernel refused; RangeError for a size that this machine cannot have */
  constructor(options: BoardOptions<C>) {
    const { kernel, vcpus = 1, trace = null, input = [], onByte = null, cpuid = (entries) => entries } = options;
    const layout = options.layout ?? plainMemory(options.ramBytes ?? DEFAULT_RAM_BYTES);
    if (!(Number.isInteger(vcpus) && vcpus >= 1)) throw new RangeError(`a machine has at least one processor, not ${vcpus}`);
    this.kernel = kernel;
    this.trace = trace;
    this.timers = options.timers ?? null;
    this.#lowBytes = layout.lowBytes;
    this.#start = options.start ?? (() => {});
    const small = options.chassis ? null : new Platform({ trace, onByte });
    this.platform = options.chassis ?? (small as Chassis as C); // C is what the caller gave, and without one it is Platform
    small?.serial.send(input);
    try {
      this.kvm = Kvm.open(kernel, { trace });
      this.#undo.push(() => this.kvm.close());
      this.vm = this.kvm.createVm();
      this.#undo.push(() => this.vm.close());
      const { hva, bytes } = this.kvm.allocate(layout.bytes);
      this.#undo.unshift(() => void kernel.free(hva)); // last: while the VM exists, a slot names it
      this.ram = bytes;
      this.hva = hva;
      this.vm.tryIoctl('KVM_SET_TSS_ADDR', TSS_GPA); // only some Intel processors need it; a kernel that has no use for it may refuse
      for (const { slot, gpa, offset, bytes: memory_size, flags = 0 } of layout.slots)
        this.vm.setUserMemoryRegion({ slot, guest_phys_addr: gpa, memory_size, userspace_addr: hva + offset, flags });
      this.#undo.push(() => this.platform.dispose());
      options.prepare?.(this);
      const supported = this.kvm.getSupportedCpuid();
      this.vcpus = Array.from({ length: vcpus }, (_, id) => {
        const vcpu = this.vm.createVcpu(id);
        this.#undo.push(() => vcpu.close());
        vcpu.setCpuid2(cpuid(cpuidFor(supported, id, vcpus), id, vcpus));
        return vcpu;
      });
      const msrs = options.resettable ? this.kvm.getMsrIndexList() : [];
      this.#powerOn = options.resettable ? this.vcpus.map((vcpu) => powerOnState(vcpu, msrs)) : [];
    } catch (error) {
      this.dispose();
      throw error;
    }
    this.attention = this.vcpus.map((vcpu) => this.platform.attentionFor(vcpu));
    this.platform.onInject = (what) => this.attention[this.#answering]?.add(what);
    this.platform.onTimers = () => this.timersChanged();
  }

  /**
   * Places an image in memory and points the processors at it.
   * @throws ImageError for an image that cannot be loaded
   */
  load(image: Uint8Array, options: LoadOptions = {}): BootPlan {
    const plan = planBoot(image, { ...options, ramBytes: this.#lowBytes });
    this.#plan = plan;
    this.#place(plan);
    return plan;
  }

  #place(plan: BootPlan): void {
    for (const { gpa, bytes, memoryBytes } of plan.segments) {
      this.ram.set(bytes, gpa);
      this.ram.fill(0, gpa + bytes.length, gpa + memoryBytes);
      this.kernel.stored?.(this.hva + gpa, memoryBytes);
    }
    for (const vcpu of this.vcpus) {
      this.#start(vcpu);
      vcpu.setSregs(plan.sregs);
      vcpu.setRegs(vcpu.id === 0 ? plan.regs : { ...plan.regs, rdx: SECOND_PROCESSOR | BigInt(vcpu.id) });
    }
  }

  /** The reset line: processors and devices as at power-on, memory as it is. What was loaded is loaded again. No processor may be running. */
  reset(): void {
    assert(this.#powerOn.length > 0, 'a machine that is to be reset was made resettable');
    this.platform.takeWish();
    for (const restore of this.#powerOn) restore();
    this.platform.reset();
    for (const attention of this.attention) attention.clear();
    if (this.#plan) this.#place(this.#plan);
  }

  /** Answers one return from KVM_RUN. */
  protected answer(vcpu: Vcpu, reason: number): Outcome {
    this.#answering = vcpu.id;
    return this.platform.answer(reason, vcpu);
  }

  // Before the guest is entered, what is due is done, and the kernel is told when to come back. The alarm may ring early on a kernel whose clock is not
  // ours, so it is set again whenever a run was interrupted.

  /** Runs the timers that are due and sets the kernel's alarm to the next. */
  protected keepTime(again: boolean): void {
    const { timers } = this;
    if (!timers) return;
    timers.runDue();
    const { next } = timers;
    if (next === this.#alarm && !again) return;
    this.#alarm = next;
    this.kernel.clock.alarm(next);
  }

  // A device can work while a processor is in the guest: somebody in the kernel rang its doorbell. If it arms a timer then, the alarm that was set before
  // KVM_RUN may be too late.

  /** KVM_RUN in this thread. */
  protected enter(vcpu: Vcpu): number {
    this.#inGuest = true;
    try {
      return vcpu.run();
    } finally {
      this.#inGuest = false;
    }
  }

  protected timersChanged(): void {
    if (!this.#inGuest || !this.timers) return;
    this.#alarm = this.timers.next;
    this.kernel.clock.alarm(this.#alarm);
  }

  /** Whether a processor can be woken by nothing but a reset: asleep with interrupts off, or never started. For kernels that keep HLT to themselves. */
  protected sleeps(vcpu: Vcpu): 'no' | 'waiting' | 'for ever' {
    const state = vcpu.getMpState();
    if (state === MP_STATE.KVM_MP_STATE_UNINITIALIZED || state === MP_STATE.KVM_MP_STATE_INIT_RECEIVED) return 'for ever';
    if (state !== MP_STATE.KVM_MP_STATE_HALTED) return 'no';
    return vcpu.page.ifFlag ? 'waiting' : 'for ever';
  }

  protected result(end: End, exitCode: number | null, detail: string): RunResult {
    return { end, exitCode, detail, console: this.platform.console, exits: { ...this.platform.exits } };
  }

  /** {@link dispose}, and waits until it is done. */
  async shutdown(): Promise<void> {
    this.dispose();
  }

  /** Closes every descriptor, in the reverse order, and gives the memory back. */
  dispose(): void {
    const undo = this.#undo;
    this.#undo = [];
    for (const step of undo.reverse()) step();
  }
}

function plainMemory(bytes: number): MemoryLayout {
  if (!(bytes > 0 && bytes <= RAM_LIMIT_BYTES && bytes % PAGE_BYTES === 0))
    throw new RangeError(`memory must be a multiple of ${PAGE_BYTES} bytes and at most ${RAM_LIMIT_BYTES}, not ${bytes}`);
  return { bytes, lowBytes: bytes, slots: [{ slot: 0, gpa: 0, offset: 0, bytes }] };
}

/** CPUID as processor `id` of `count` shall see it: the supported leaves, with its own APIC identifier where leaves report one. */
function cpuidFor(supported: readonly CpuidEntry[], id: number, count: number): CpuidEntry[] {
  return supported.map((entry) => {
    if (entry.function === 1) return { ...entry, ebx: ((entry.ebx & 0x0000ffff) | (count << 16) | (id << 24)) >>> 0 };
    if (entry.function === 0xb || entry.function === 0x1f) return { ...entry, edx: id };
    return entry;
  });
}

// # Putting a machine together
//
// A virtual machine monitor begins in the same seven steps, whichever it is: open the device, create a VM, give it memory, create processors,
// tell each what CPUID shall say, load a program, set the first processor's registers. What differs between monitors is how they then *run*;
// so this class stops short of that, and two others take it from here: one runs the processors in turn in the calling thread, the other gives each a thread
// of its own.

import { PAGE_BYTES } from '../01-hardware-background/physical-memory.ts';
import type { Trace } from '../01-hardware-background/trace.ts';
import type { Kernel } from '../02-kvm-objects/kernel.ts';
import { Kvm, type Vcpu, type Vm } from '../02-kvm-objects/kvm.ts';
import type { CpuidEntry } from '../02-kvm-objects/vcpu-state.ts';
import { Attention } from './attention.ts';
import { type BootPlan, type DoorName, planBoot } from './doors.ts';
import { type End, type Outcome, Platform } from './platform.ts';

export interface BoardOptions {
  readonly kernel: Kernel;
  /** From address 0; a multiple of the page size, at least 1 MiB. */
  readonly ramBytes?: number;
  readonly vcpus?: number;
  readonly trace?: Trace | null;
  /** What waits at the serial port when the guest starts. */
  readonly input?: Iterable<number>;
  /** Called for each byte that the guest sends to the serial port. */
  readonly onByte?: ((byte: number) => void) | null;
}

interface LoadOptions {
  readonly door?: DoorName;
  readonly commandLine?: string;
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

export class Board {
  readonly kernel: Kernel;
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly vcpus: readonly Vcpu[];
  /** Guest memory, live. */
  readonly ram: Uint8Array;
  readonly platform: Platform;
  readonly trace: Trace | null;
  /** What waits for each processor. */
  protected readonly attention: readonly Attention[];
  /** How to take back what has been made so far; run from the end. */
  #undo: (() => void)[] = [];
  #answering = 0;

  /** @throws Errno naming the request that the kernel refused; RangeError for a size that this machine cannot have */
  constructor({ kernel, ramBytes = DEFAULT_RAM_BYTES, vcpus = 1, trace = null, input = [], onByte = null }: BoardOptions) {
    if (!(ramBytes > 0 && ramBytes <= RAM_LIMIT_BYTES && ramBytes % PAGE_BYTES === 0))
      throw new RangeError(`memory must be a multiple of ${PAGE_BYTES} bytes and at most ${RAM_LIMIT_BYTES}, not ${ramBytes}`);
    if (!(Number.isInteger(vcpus) && vcpus >= 1)) throw new RangeError(`a machine has at least one processor, not ${vcpus}`);
    this.kernel = kernel;
    this.trace = trace;
    this.platform = new Platform({ trace, onByte });
    this.platform.serial.send(input);
    try {
      this.kvm = Kvm.open(kernel, { trace });
      this.#undo.push(() => this.kvm.close());
      this.vm = this.kvm.createVm();
      this.#undo.push(() => this.vm.close());
      const { hva, bytes } = this.kvm.allocate(ramBytes);
      this.#undo.unshift(() => void kernel.free(hva)); // last: while the VM exists, a slot names it
      this.ram = bytes;
      this.vm.tryIoctl('KVM_SET_TSS_ADDR', TSS_GPA); // only some Intel processors need it; a kernel that has no use for it may refuse
      this.vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: ramBytes, userspace_addr: hva });
      const cpuid = this.kvm.getSupportedCpuid();
      this.vcpus = Array.from({ length: vcpus }, (_, id) => {
        const vcpu = this.vm.createVcpu(id);
        this.#undo.push(() => vcpu.close());
        vcpu.setCpuid2(cpuidFor(cpuid, id, vcpus));
        return vcpu;
      });
    } catch (error) {
      this.dispose();
      throw error;
    }
    this.attention = this.vcpus.map(() => new Attention());
    this.platform.injector.onRequest = (what) => this.attention[this.#answering]?.add(what); // to the processor that asked
  }

  /**
   * Places an image in memory and points the processors at it.
   * @throws ImageError for an image that cannot be loaded
   */
  load(image: Uint8Array, options: LoadOptions = {}): BootPlan {
    const plan = planBoot(image, { ...options, ramBytes: this.ram.length });
    for (const { gpa, bytes, memoryBytes } of plan.segments) {
      this.ram.set(bytes, gpa);
      this.ram.fill(0, gpa + bytes.length, gpa + memoryBytes);
    }
    for (const vcpu of this.vcpus) {
      vcpu.setSregs(plan.sregs);
      vcpu.setRegs(vcpu.id === 0 ? plan.regs : { ...plan.regs, rdx: SECOND_PROCESSOR | BigInt(vcpu.id) });
    }
    return plan;
  }

  /** Answers one return from KVM_RUN. */
  protected answer(vcpu: Vcpu, reason: number): Outcome {
    this.#answering = vcpu.id;
    return this.platform.answer(reason, vcpu.page);
  }

  protected result(end: End, exitCode: number | null, detail: string): RunResult {
    return { end, exitCode, detail, console: this.platform.serial.output, exits: { ...this.platform.exits } };
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

/** CPUID as processor `id` of `count` shall see it: the supported leaves, with its own APIC identifier where leaves report one. */
function cpuidFor(supported: readonly CpuidEntry[], id: number, count: number): CpuidEntry[] {
  return supported.map((entry) => {
    if (entry.function === 1) return { ...entry, ebx: ((entry.ebx & 0x0000ffff) | (count << 16) | (id << 24)) >>> 0 };
    if (entry.function === 0xb || entry.function === 0x1f) return { ...entry, edx: id };
    return entry;
  });
}

// # Where the interrupt controllers live
//
// The same chips, in three places. In the kernel all of them: an interrupt reaches the guest without the VMM hearing of it, and this is what everybody
// runs. Or the local APICs in the kernel, because processors talk to theirs all the time, and the old chips outside, where nobody attacks the kernel
// through them: *split*. Or all in user space, as before KVM had any; then each access to an APIC is an exit, and the VMM injects every vector
// itself. QEMU has the three as `kernel-irqchip=on`, `split` and `off`.
//
// A device does not care. It has a wire, or an address to write to.

import type { Clock } from '../../02-kvm-objects/clock.ts';
import type { Vcpu, Vm } from '../../02-kvm-objects/kvm.ts';
import type { CpuidEntry } from '../../02-kvm-objects/vcpu-state.ts';
import type { Attention } from '../../03-vcpu-loop/attention.ts';
import type { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import type { SavedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { MsiTarget, Wire } from '../wires.ts';
import type { GsiTable } from './gsi-table.ts';

export type Arrangement = 'on' | 'split' | 'off';

/** What a machine asks of its interrupt controllers, in the order in which it asks. */
export interface InterruptController {
  readonly arrangement: Arrangement;
  /** HLT is answered by the kernel: there is a local APIC in it that can wake the processor. */
  readonly sleepsInKernel: boolean;
  /** When the VM has no processor yet. @throws Errno */
  prepare(vm: Vm): void;
  /** Puts what is in user space on the buses. */
  attach(ports: Bus, mmio: Bus): void;
  /** What CPUID may say of APICs here. */
  cpuid(entries: readonly CpuidEntry[]): CpuidEntry[];
  /** What waits for a processor, made once for each, in the order of their numbers. */
  attentionFor(vcpu: Vcpu): Attention;
  /** After each return of KVM_RUN, before it is answered. */
  returned(vcpu: Vcpu): void;
  /** Whether the exit was meant for the controllers, and is answered. */
  answer(reason: number, vcpu: Vcpu): boolean;
  /** A line of the machine: 0–15 the ISA interrupts, 16–23 the others of the I/O APIC. The same object each time. */
  line(gsi: number): Wire;
  readonly msi: MsiTarget;
  /** The kernel's table of lines and messages, where the kernel has local APICs to send them to. */
  readonly gsis: GsiTable | null;
  /** As at power-on. No processor may be running. */
  reset(): void;
  /** What is saved of the chips in user space. */
  savedParts(): SavedPart[];
}

export interface ControllerOptions {
  /** The machine's own timers: for chips in user space. */
  readonly clock: Clock;
  /** A processor that may be asleep has something to look at. */
  readonly onWake?: (vcpu: number) => void;
  /** Without the 8259s and the 8254: a machine whose software knows only APICs. */
  readonly apicsOnly?: boolean;
}

// ## Lines and pins
//
// A number of a line (KVM says *GSI*) is not a pin. A PC's lines 0–15 go to the 8259s and to the I/O APIC, with one exception that every ACPI table
// has to mention: the timer, line 0, arrives at the I/O APIC's pin {{TIMER_PIN}}. The cascade, line 2, is not a line.

export const GSIS = 24;
const ISA_LINES = 16;
export const TIMER_PIN = 2;
const CASCADE_LINE = 2;

/** The I/O APIC's pin of a line; null for the cascade. */
// @clause kvm.irqchip.default-routing
export const ioapicPin = (gsi: number): number | null => (gsi === 0 ? TIMER_PIN : gsi === CASCADE_LINE ? null : gsi);
/** The 8259s' input of a line; null beyond them and for the cascade. */
export const picInput = (gsi: number): number | null => (gsi < ISA_LINES && gsi !== CASCADE_LINE ? gsi : null);

/** One wire for each line. */
export class Lines {
  readonly #wires: readonly Wire[];

  constructor(set: (gsi: number, level: boolean) => void) {
    this.#wires = Array.from({ length: GSIS }, (_, gsi) => ({ set: (level) => set(gsi, level) }));
  }

  /** @throws RangeError */
  at(gsi: number): Wire {
    const wire = this.#wires[gsi];
    if (!wire) throw new RangeError(`line ${gsi}; there are ${GSIS}`);
    return wire;
  }
}

const CPUID_APIC = 1 << 9; // leaf 1, EDX
const CPUID_X2APIC = 1 << 21; // leaf 1, ECX
const CPUID_TSC_DEADLINE = 1 << 24;

/** Leaf 1 with the given kinds of APIC. */
export function withApic(entries: readonly CpuidEntry[], { x2apic, tscDeadline }: { x2apic: boolean; tscDeadline: boolean }): CpuidEntry[] {
  return entries.map((entry) => {
    if (entry.function !== 1) return entry;
    let ecx = entry.ecx & ~(CPUID_X2APIC | CPUID_TSC_DEADLINE);
    if (x2apic) ecx |= entry.ecx & CPUID_X2APIC;
    if (tscDeadline) ecx |= CPUID_TSC_DEADLINE;
    return { ...entry, ecx: ecx >>> 0, edx: (entry.edx | CPUID_APIC) >>> 0 };
  });
}

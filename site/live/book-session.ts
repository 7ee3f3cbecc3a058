// # The book's machine in a session
//
// The machine is the suite's: the same kernel of the same size on chapter 1's processor, the same monitor, the same disk and network, and turns as
// long. So the trace of a payload here is, byte for byte, the trace of the case that runs it in the same way.

import { CR0, CR4, EFER, FLAG } from '../../chapters/01-hardware-background/state.ts';
import { IOCTL } from '../../chapters/02-kvm-objects/abi/ioctls.ts';
import { type Segment, type Sregs, VcpuState } from '../../chapters/02-kvm-objects/vcpu-state.ts';
import type { Chassis } from '../../chapters/03-vcpu-loop/chassis.ts';
import { ImageError } from '../../chapters/03-vcpu-loop/elf.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { Pc } from '../../chapters/05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../chapters/05-pio-mmio/machine/soft-machine.ts';
import { lookupIn } from '../../chapters/05-pio-mmio/register-names.ts';
import type { Lookup } from '../../chapters/05-pio-mmio/route.ts';
import { F } from '../../chapters/06-virtio-rings/features.ts';
import { virtioDevices } from '../../chapters/06-virtio-rings/machine/virtio-types.ts';
import { caseBoard } from '../../spec-tests/adapters/case-machine.ts';
import { PAUSED, PacedKernel } from './paced-kernel.ts';
import type { CodeAtRip, Ending, QueueState, RegisterGroup } from './protocol.ts';
import type { Session, Start } from './session.ts';

/** What the suite gives a case that asks for nothing else. */
const MEMORY_MIB = 16;
const CODE_BYTES = 16;

const RING_FEATURES = ['INDIRECT_DESC', 'EVENT_IDX', 'IN_ORDER', 'NOTIFICATION_DATA'] as const;

const wide = (value: bigint, digits: number): string => value.toString(16).padStart(digits, '0');

/** Names of the bits that are set, from a table of masks. */
function bitNames(value: bigint, table: Readonly<Record<string, number>>): string {
  const names = Object.entries(table)
    .map(([name, mask]) => [name, BigInt(mask < 0 ? mask >>> 0 : mask)] as const)
    .filter(([name, mask]) => mask !== 0n && (mask & (mask - 1n)) === 0n && !/_SHIFT$|^FIXED$/.test(name) && (value & mask) !== 0n);
  return names.map(([name]) => name).join(' ');
}

const segmentWords = ({ base, limit, type, s, dpl, l, db, present, unusable }: Segment): string => {
  if (unusable || !present) return 'unusable';
  const kind = s ? (type & 8 ? `code ${l ? '64' : db ? '32' : '16'}` : 'data') : `system ${type}`;
  return `base ${base.toString(16)} limit ${limit.toString(16)} ${kind} dpl ${dpl}`;
};

const modeOf = ({ cr0, efer, cs }: Sregs, rflags: bigint): string => {
  if (!(cr0 & BigInt(CR0.PE))) return 'real mode';
  if (rflags & BigInt(FLAG.VM)) return 'virtual-8086 mode';
  if (efer & BigInt(EFER.LMA)) return cs.l ? '64-bit mode' : 'compatibility mode';
  return `protected mode, ${cs.db ? 32 : 16}-bit`;
};

export class BookSession implements Session {
  readonly #kernel: PacedKernel;
  readonly #machine: Machine<Chassis>;
  readonly vcpus: number;
  ending: Ending | null = null;

  /** @throws ImageError for an image that no door opens */
  constructor({ image, vcpus, needs, devices = [], input }: Start) {
    this.vcpus = vcpus;
    this.#kernel = new PacedKernel((trace) => machineKernel({ memoryMiB: MEMORY_MIB, cpus: vcpus, memory: 'ept' }, { trace }));
    const guest = { vcpus, memoryMiB: MEMORY_MIB, needs, devices, input: new TextEncoder().encode(input) };
    const { pc, board } = caseBoard(this.#kernel, guest, this.#kernel.tape);
    this.#machine = new Machine(board);
    try {
      this.#machine.load(image, pc?.handover);
    } catch (error) {
      this.#machine.dispose();
      throw error instanceof ImageError ? new Error(`The image cannot be loaded: ${error.message}`) : error;
    }
  }

  get events() {
    return this.#kernel.tape.events;
  }
  get dropped(): number {
    return this.#kernel.tape.dropped;
  }
  get instructions(): number {
    return this.#kernel.ticks;
  }
  get idle(): number {
    return this.#kernel.soft.hardware.idleTicks;
  }
  /** Whose registers are in the processor: looking at another's would load them, and that is an event. */
  get vcpu(): number {
    return this.#kernel.soft.hardware.loaded?.id ?? 0;
  }
  get console(): Uint8Array {
    return this.#machine.platform.console;
  }

  get lookup(): Lookup {
    return lookupIn(this.#machine.platform);
  }

  advance(count: number): void {
    const kernel = this.#kernel;
    kernel.deadline = kernel.ticks + count;
    while (this.ending === null && kernel.ticks < kernel.deadline) this.#once();
  }

  go(milliseconds: number): void {
    this.#kernel.deadline = Number.POSITIVE_INFINITY;
    const until = performance.now() + milliseconds;
    do this.#once();
    while (this.ending === null && performance.now() < until);
  }

  toExit(count: number): void {
    const kernel = this.#kernel;
    kernel.deadline = kernel.ticks + count;
    kernel.mostExits = kernel.tape.exits + 1;
    try {
      while (this.ending === null && kernel.tape.exits < kernel.mostExits && kernel.ticks < kernel.deadline) this.#once();
    } finally {
      kernel.mostExits = Number.POSITIVE_INFINITY;
    }
  }

  /** One KVM_RUN and its answer, or as much of it as the budget allows. */
  #once(): void {
    try {
      const outcome = this.#machine.advance();
      if (outcome.kind === 'end') this.ending = { end: outcome.end, detail: outcome.detail };
    } catch (thrown) {
      if (thrown !== PAUSED) throw thrown;
    }
  }

  /** Reads state without leaving a trace. */
  #look<T>(read: (state: VcpuState) => T): T {
    const { tape, soft } = this.#kernel;
    const vcpu = this.#machine.vcpus[this.vcpu] ?? this.#machine.current;
    tape.muted = true;
    try {
      return read(
        new VcpuState((request, arg) => {
          const result = soft.ioctl(vcpu.fd, IOCTL[request], arg);
          if (result < 0) throw new Error(`${request}: ${result}`);
          return result;
        }),
      );
    } finally {
      tape.muted = false;
    }
  }

  registers(): RegisterGroup[] {
    return this.#look((state) => {
      const regs = state.getRegs();
      const sregs = state.getSregs();
      const long = (sregs.efer & BigInt(EFER.LMA)) !== 0n;
      const digits = long ? 16 : 8;
      const shown = long
        ? (['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi', 'rbp', 'rsp', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const)
        : (['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi', 'rbp', 'rsp'] as const);
      const name = (register: string): string => (long ? register : register.replace(/^r/, 'e')).toUpperCase();
      const narrow = (value: bigint): string => wide(long ? value : value & 0xffff_ffffn, digits);
      return [
        { title: 'General', registers: shown.map((register) => [name(register), narrow(regs[register])] as const) },
        {
          title: 'Control',
          registers: [
            [name('rip'), narrow(regs.rip), modeOf(sregs, regs.rflags)],
            ['RFLAGS', wide(regs.rflags, 8), bitNames(regs.rflags, FLAG)],
            ['CR0', wide(sregs.cr0, 8), bitNames(sregs.cr0, CR0)],
            ['CR2', narrow(sregs.cr2)],
            ['CR3', narrow(sregs.cr3)],
            ['CR4', wide(sregs.cr4, 8), bitNames(sregs.cr4, CR4)],
            ['EFER', wide(sregs.efer, 8), bitNames(sregs.efer, EFER)],
            ['GDTR', narrow(sregs.gdt.base), `limit ${sregs.gdt.limit.toString(16)}`],
            ['IDTR', narrow(sregs.idt.base), `limit ${sregs.idt.limit.toString(16)}`],
          ],
        },
        {
          title: 'Segments',
          registers: (['cs', 'ss', 'ds', 'es', 'fs', 'gs', 'tr', 'ldt'] as const).map(
            (segment) => [segment.toUpperCase(), sregs[segment].selector.toString(16).padStart(4, '0'), segmentWords(sregs[segment])] as const,
          ),
        },
      ];
    });
  }

  code(): CodeAtRip {
    return this.#look((state) => {
      const { rip } = state.getRegs();
      const { cs, efer } = state.getSregs();
      const long = (efer & BigInt(EFER.LMA)) !== 0n && cs.l !== 0;
      const linear = long ? rip : (cs.base + rip) & 0xffff_ffffn;
      const { valid, physical_address } = state.translate(linear);
      const at = Number(physical_address);
      const room = Math.min(CODE_BYTES, 4096 - (at % 4096)); // the next page may be elsewhere
      const bytes = valid && at < this.#machine.ram.length ? this.#machine.ram.slice(at, at + room) : null;
      return { rip: rip.toString(16), linear: linear.toString(16), bytes };
    });
  }

  queues(): QueueState[] {
    const { platform } = this.#machine;
    const devices = platform instanceof Pc ? [...virtioDevices(platform).values()] : [];
    return devices.flatMap((device) =>
      device.queues
        .filter(({ enabled }) => enabled)
        .map(
          ({ index, size, position }): QueueState => ({
            device: device.name,
            queue: index,
            format: device.has(F.RING_PACKED) ? 'packed' : 'split',
            size,
            features: RING_FEATURES.filter((name) => device.has(F[name])),
            avail: position?.avail ?? null,
            used: position?.used ?? null,
            failure: device.failure,
          }),
        ),
    );
  }

  dispose(): void {
    this.#kernel.tape.muted = true;
    this.#machine.dispose();
  }
}

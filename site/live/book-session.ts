// # The book's machine in a session
//
// A monitor on the soft kernel, on chapter 1's processor: what the suite judges is what runs here, set up in the same way. Most payloads run on chapter 3's
// small machine. Those that need more than it has run on the PC of chapter 5, with its interrupt controllers in the kernel, a disk and a network card.

import { CR0, CR4, EFER, FLAG } from '../../chapters/01-hardware-background/state.ts';
import { IOCTL } from '../../chapters/02-kvm-objects/abi/ioctls.ts';
import { type Segment, type Sregs, VcpuState } from '../../chapters/02-kvm-objects/vcpu-state.ts';
import type { Chassis } from '../../chapters/03-vcpu-loop/chassis.ts';
import { ImageError } from '../../chapters/03-vcpu-loop/elf.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { MemoryBlock, SECTOR_BYTES } from '../../chapters/05-pio-mmio/block/block.ts';
import { platformKernel } from '../../chapters/05-pio-mmio/kernel/index.ts';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import { Pc } from '../../chapters/05-pio-mmio/machine/pc.ts';
import { lookupIn } from '../../chapters/05-pio-mmio/register-names.ts';
import type { Lookup } from '../../chapters/05-pio-mmio/route.ts';
import { PAUSED, PacedKernel } from './paced-kernel.ts';
import type { CodeAtRip, Ending, RegisterGroup } from './protocol.ts';
import type { Session, Start } from './session.ts';

const GUEST_RAM_BYTES = 16 << 20;
const HOST_RAM_BYTES = 64 << 20;
const CODE_BYTES = 16;
/** Instructions in one KVM_RUN, as the suite has it: short turns where processors wait for one another. */
export const boundFor = (vcpus: number): number => (vcpus > 1 ? 10_000 : 1_000_000);

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

function small(kernel: PacedKernel, image: Uint8Array, vcpus: number, input: Uint8Array): Machine {
  const machine = new Machine({ kernel, ramBytes: GUEST_RAM_BYTES, vcpus, trace: kernel.tape, input });
  return loaded(machine, () => machine.load(image));
}

const DISK_SECTORS = 128;

function pcWith(kernel: PacedKernel, image: Uint8Array, vcpus: number, input: Uint8Array): Machine<Pc> {
  const config = completeConfig({
    kernel: 'the payload',
    memoryMiB: GUEST_RAM_BYTES >> 20,
    cpus: vcpus,
    reboot: false,
    serial: ['null'],
    drives: [{ id: 'disk', file: 'in memory' }],
    netdevs: [{ id: 'wire', type: 'echo' }],
    devices: [
      { type: 'ide-hd', drive: 'disk' },
      { type: 'e1000', netdev: 'wire' },
    ],
  });
  const disk = new MemoryBlock(Uint8Array.from({ length: DISK_SECTORS * SECTOR_BYTES }, (_, n) => (n * 7 + (n >> 9) * 31) & 0xff));
  const pc = new Pc({ kernel, config, blocks: new Map([['disk', disk]]), trace: kernel.tape });
  pc.serials[0]?.send(input);
  const machine = new Machine(pc.board);
  return loaded(machine, () => machine.load(image, pc.handover));
}

/** @throws ImageError from `load`, with the machine given back */
function loaded<M extends Machine<Chassis>>(machine: M, load: () => void): M {
  try {
    load();
    return machine;
  } catch (error) {
    machine.dispose();
    throw error;
  }
}

export class BookSession implements Session {
  readonly #kernel: PacedKernel;
  readonly #machine: Machine<Chassis>;
  readonly vcpus: number;
  ending: Ending | null = null;

  /** @throws ImageError for an image that no door opens */
  constructor({ image, machine, vcpus, input }: Start) {
    this.vcpus = vcpus;
    const bytes = new TextEncoder().encode(input);
    this.#kernel = new PacedKernel({
      ramBytes: HOST_RAM_BYTES,
      instructionBound: boundFor(vcpus),
      ...(machine === 'pc' && { make: platformKernel }),
    });
    try {
      this.#machine = machine === 'pc' ? pcWith(this.#kernel, image, vcpus, bytes) : small(this.#kernel, image, vcpus, bytes);
    } catch (error) {
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
    return this.#kernel.instructions;
  }
  get idle(): number {
    return this.#kernel.idle;
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
    kernel.deadline = kernel.instructions + count;
    while (this.ending === null && kernel.instructions < kernel.deadline) this.#once();
  }

  go(milliseconds: number): void {
    this.#kernel.deadline = Number.POSITIVE_INFINITY;
    const until = performance.now() + milliseconds;
    do this.#once();
    while (this.ending === null && performance.now() < until);
  }

  toExit(count: number): void {
    const kernel = this.#kernel;
    const before = kernel.exits;
    kernel.deadline = kernel.instructions + count;
    kernel.stopAtExit = true;
    try {
      while (this.ending === null && kernel.exits === before && kernel.instructions < kernel.deadline) this.#once();
    } finally {
      kernel.stopAtExit = false;
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

  dispose(): void {
    this.#kernel.tape.muted = true;
    this.#machine.dispose();
  }
}

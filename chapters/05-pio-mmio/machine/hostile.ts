// # A guest that means harm
//
// Every byte that a device model sees comes from the guest, and a guest may be anything: a driver with a fault in it, or somebody who rented a
// machine in order to leave it. What such a guest must not get is short to say. It reaches no memory but its own. It cannot make one access last:
// whoever answers an access does so in a bounded number of steps, because the thread that answers is the one that would stop the machine. It cannot
// make the host keep more and more. And whatever it does is answered with a value, never with an exception of ours.
//
// This is that guest. It sits where the processor sits, at the two buses of the whole PC, and does what pure chance would take too long to find: it
// knows where the registers are, moves regions over RAM and over each other, leaves descriptors in memory that point everywhere, and starts the
// engines that read them. Between accesses time passes, interrupts are taken, and now and then the processor itself runs for a while in whatever
// memory has become. Everything follows from a seed; a complaint names the seed and the operation.
//
// The meter beside it counts work, not time, so that a run says the same on every computer.

import type { Allocation, Kernel } from '../../02-kvm-objects/kernel.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { Bus, Width } from '../../03-vcpu-loop/devices/bus.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { Random } from '../../04-memory-virtualization/random.ts';
import { MemoryBlock } from '../block/block.ts';
import { E1000Function } from '../e1000/e1000.ts';
import { SplitController } from '../interrupts/split.ts';
import { UserController } from '../interrupts/user-space.ts';
import type { Link } from '../net/link.ts';
import { BRIDGE_CLASS, PciBridge } from '../pci/bridge.ts';
import { PciFunction } from '../pci/function.ts';
import { completeConfig } from './config.ts';
import './devices.ts';
import { ECAM_GPA } from '../pci/q35.ts';
import { type Hands, hostileValue, MEMORY_MIB, Mischief, PLACES, RAM_BYTES } from './hostile-plans.ts';
import { Pc } from './pc.ts';
import { machineKernel } from './soft-machine.ts';

const ROM_BYTES = 64 << 10;
const SECTORS = 1024;
/** How far the processor gets when it is its turn. */
const TURN_INSTRUCTIONS = 499;
const GUARD_BYTES = 512 << 10;
const GUARD = 0x5aa5_c33c;

// ## What is too much
//
// The limits are those of the models' own bounds, with room to spare: a ring of {{2 ** 16}} descriptors is read once round, a descriptor table of the
// bus master once, a network card moves a few megabytes before it pauses. Without those bounds the numbers would be larger by thousands.

/** The most that one access, or one firing of the timers, may cost. */
const MOST = {
  /** Transfers to and from memory. */
  transfers: 1 << 18,
  bytes: 64 << 20,
  /** Frames handed to a wire. */
  frames: 1 << 17,
  /** Rounds until no timer is due. */
  rounds: 16,
} as const;
type Cost = keyof typeof MOST;
/** A kernel timer of a few microseconds could otherwise fire a million times in what is one operation here. */
const MOST_NAPS = 64;

interface HostileOptions {
  readonly seed: number;
  readonly irqchip?: 'on' | 'split' | 'off';
}

/** What a run came to. */
interface HostileReport {
  readonly seed: number;
  readonly irqchip: 'on' | 'split' | 'off';
  /** Accesses to the buses. */
  readonly operations: number;
  /** A hash of all that was read: equal for equal seeds. */
  readonly digest: number;
  /** In all: so that a run that never got anywhere is seen. */
  readonly did: Readonly<Record<Cost | 'interrupts' | 'resets' | 'exits', number>>;
  /** By one access. */
  readonly most: Readonly<Record<Cost, number>>;
  readonly regions: number;
  readonly timers: number;
  /** What must not be. */
  readonly complaints: readonly string[];
}

const WIDTHS = [1, 2, 4, 8] as const;

// The debug-exit port is left out: what it does is end the machine.
// biome-ignore format: table
const PORTS: readonly (readonly [number, number])[] = [
  [0x00, 16], [0x20, 2], [0x40, 4], [0x60, 1], [0x61, 1], [0x64, 1], [0x70, 4], [0x80, 16], [0x92, 1], [0xa0, 2], [0xb2, 2], [0xc0, 32], [0xe9, 1],
  [0x170, 8], [0x1f0, 8], [0x1f0, 8], [0x2f8, 8], [0x376, 1], [0x3f6, 1], [0x3f8, 8], [0x402, 1], [0x4d0, 2], [0x510, 12], [0x514, 8], [0x600, 128],
  [0xcf8, 8], [0xcf8, 8],
];
const SKIPPED = { from: 0xf4, to: 0xf8 } as const;

// biome-ignore format: table
const MEMORY: readonly (readonly [number, number])[] = [
  [0xa_0000, 0x2_0000], [0xc_0000, 0x4_0000], [0xfec0_0000, 0x100], [0xfee0_0000, 0x400], [0xfee0_0000, 0x400], [0xfed1_c000, 0x4000],
  [ECAM_GPA, 0x10_0000], [ECAM_GPA + 0xf_8000, 0x1000], [0xfffc_0000, 0x4_0000],
];

/** Registers of configuration space that move, route or enable something. */
// biome-ignore format: table
const CONFIG_REGISTERS: readonly number[] = [
  0x04, 0x04, 0x06, 0x0c, 0x10, 0x14, 0x18, 0x19, 0x1a, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x3c, 0x3e, 0x40, 0x42, 0x44, 0x48, 0x4c, 0x50,
  0x60, 0x64, 0x68, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x9d, 0xf0,
];
export class HostileGuest implements Hands {
  readonly pc: Pc;
  readonly machine: Machine<Pc>;
  readonly #seed: number;
  readonly #irqchip: 'on' | 'split' | 'off';
  readonly #kernel: Kernel;
  readonly random: Random;
  readonly ram: Uint8Array;
  readonly #mischief: Mischief;
  readonly #guards: readonly Allocation[];
  readonly #rom: Uint8Array;
  readonly #disk: MemoryBlock;
  readonly #complaints: string[] = [];
  readonly #processors: SoftVcpu[] = [];
  readonly #did: Record<Cost | 'interrupts' | 'resets' | 'exits', number>;
  readonly #most: Record<Cost, number> = { transfers: 0, bytes: 0, frames: 0, rounds: 0 };
  /** Of the present access. */
  readonly #cost: Record<Cost, number> = { transfers: 0, bytes: 0, frames: 0, rounds: 0 };
  #operations = 0;
  #digest = 0x811c9dc5;
  #regions = 0;
  #timers = 0;

  constructor({ seed, irqchip = 'off' }: HostileOptions) {
    this.#seed = seed;
    this.#irqchip = irqchip;
    this.random = new Random(seed);
    this.#did = { transfers: 0, bytes: 0, frames: 0, rounds: 0, interrupts: 0, resets: 0, exits: 0 };
    const kernel = machineKernel({ memoryMiB: MEMORY_MIB, cpus: 2, memory: 'ept' }, { instructionBound: TURN_INSTRUCTIONS });
    this.#kernel = kernel;
    kernel.vcpuCreated.push((vcpu) => {
      this.#processors.push(vcpu);
      return 0;
    });
    const config = completeConfig({
      firmware: 'rom',
      memoryMiB: MEMORY_MIB,
      cpus: 2,
      irqchip,
      serial: ['null', 'null'],
      drives: [
        { id: 'disk0', file: 'disk0' },
        { id: 'disk1', file: 'disk1', readonly: true },
      ],
      netdevs: [{ id: 'net', type: 'echo' }],
      devices: [
        { type: 'ide-hd', drive: 'disk0' },
        { type: 'ide-hd', drive: 'disk1', bus: 'ide.1' },
        { type: 'e1000', netdev: 'net' },
      ],
    });
    this.#rom = firmware();
    this.#disk = new MemoryBlock(new Uint8Array(SECTORS * 512).map((_, at) => at * 7));
    const blocks = new Map([
      ['disk0', this.#disk],
      ['disk1', new MemoryBlock(new Uint8Array(8 * 512), { readOnly: true })],
    ]);
    const first = this.#guard();
    this.pc = new Pc({ kernel, config, firmware: this.#rom, blocks, startTime: 0 });
    this.#plugBehindBridge();
    this.#meter();
    this.machine = new Machine(this.pc.board);
    this.ram = this.machine.ram.subarray(0, RAM_BYTES);
    this.#mischief = new Mischief(this);
    // Whatever the kernel gives out next to the guest's memory is a guard: the gaps below, and what follows.
    const guards = [first];
    do guards.push(this.#guard());
    while ((guards.at(-1) as Allocation).hva < this.machine.hva);
    this.#guards = guards;
  }

  #guard(): Allocation {
    const guard = this.#kernel.allocate(GUARD_BYTES) as Allocation;
    new Uint32Array(guard.bytes.buffer, guard.bytes.byteOffset, GUARD_BYTES / 4).fill(GUARD);
    return guard;
  }

  // A second card sits behind a bridge, on a wire whose other end swallows everything, next to a function with every kind of region and message.
  #plugBehindBridge(): void {
    const { pc } = this;
    const bridge = new PciBridge({ name: 'bridge', identity: { vendorId: 0x1b36, deviceId: 1, classCode: BRIDGE_CLASS } });
    pc.plug(bridge, 0x1e, 0);
    const link: Link = {
      send: () => {
        this.#cost.frames++;
      },
      onFrame: null,
    };
    bridge.secondary.add(new E1000Function({ clock: pc.timers, link }), 1);
    const registers = { name: 'every kind', read: () => 0n, write: () => void every.signal(this.random.below(8)) };
    const every = new PciFunction({
      name: 'every kind',
      identity: { vendorId: 0x1234, deviceId: 0x1111, classCode: 0x058000, interruptPin: 2 },
      bars: [
        { index: 0, kind: 'mem32', bytes: 0x1000, registers },
        { index: 1, kind: 'io', bytes: 0x20, registers },
        { index: 2, kind: 'mem64', bytes: 0x10_0000, prefetchable: true, registers },
        { index: 4, kind: 'mem32', bytes: 0x4000_0000, registers },
      ],
      romBar: { bytes: 0x800, image: new Uint8Array(0x800) },
      extended: true,
    });
    every.addMsi({ vectors: 8, wide: true, masking: true });
    every.addMsix({ bar: 0, vectors: 8, tableOffset: 0x400, pbaOffset: 0x800 });
    bridge.secondary.add(every, 2);
  }

  /** Counts what devices do to memory. */
  #meter(): void {
    const { memory } = this.pc;
    const [read, write] = [memory.read.bind(memory), memory.write.bind(memory)];
    const count = (bytes: number): void => {
      this.#cost.transfers++;
      this.#cost.bytes += bytes;
    };
    memory.read = (gpa, into) => {
      count(into.length);
      return read(gpa, into);
    };
    memory.write = (gpa, from) => {
      count(from.length);
      return write(gpa, from);
    };
  }

  get report(): HostileReport {
    return {
      seed: this.#seed,
      irqchip: this.#irqchip,
      operations: this.#operations,
      digest: this.#digest >>> 0,
      did: { ...this.#did },
      most: { ...this.#most },
      regions: this.#regions,
      timers: this.#timers,
      complaints: this.#complaints,
    };
  }

  /** Does so many operations more. False once there is something to complain of. */
  run(operations: number): boolean {
    const end = this.#operations + operations;
    const look = Math.max(1, Math.floor(operations / 16));
    let next = this.#operations + look;
    while (this.#operations < end && this.#complaints.length === 0) {
      this.#guarded(() => this.#act());
      if (this.#operations < next) continue;
      next = this.#operations + look;
      this.#look();
    }
    this.#look();
    return this.#complaints.length === 0;
  }

  #complain(text: string): void {
    this.#complaints.push(`seed ${this.#seed}, operation ${this.#operations}: ${text}`);
  }

  /** Does something and looks at what it cost. */
  #guarded(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#complain(error instanceof Error ? (error.stack ?? error.message) : String(error));
    }
  }

  // @clause machine.hostile.survives
  #settle(what: () => string): void {
    for (const cost of Object.keys(MOST) as Cost[]) {
      const spent = this.#cost[cost];
      if (spent === 0) continue;
      this.#did[cost] += spent;
      if (spent > this.#most[cost]) this.#most[cost] = spent;
      if (spent > MOST[cost]) this.#complain(`${what()} cost ${spent} ${cost}`);
      this.#cost[cost] = 0;
    }
  }

  // ## What must still hold

  // @clause machine.hostile.contained
  #look(): void {
    for (const { hva, bytes } of this.#guards) {
      const words = new Uint32Array(bytes.buffer, bytes.byteOffset, GUARD_BYTES / 4);
      for (let at = 0; at < words.length; at++)
        if (words[at] !== GUARD) this.#complain(`memory outside the guest's was written, at 0x${(hva + 4 * at).toString(16)}`);
    }
    const rom = this.machine.ram.subarray(RAM_BYTES);
    if (rom.some((byte, at) => byte !== this.#rom[at])) this.#complain('the ROM was written');
    const { ports, mmio, timers } = this.pc;
    this.#regions = Math.max(this.#regions, ports.placed + mmio.placed);
    this.#timers = Math.max(this.#timers, timers.armed);
  }

  // ## One access

  access(bus: Bus, write: boolean, at: number, width: Width, value: bigint): number {
    this.#operations++;
    const data = BigInt.asUintN(8 * width, value);
    let read = 0n;
    if (write) {
      if (!this.#kernelWrites(bus, at, width, data)) bus.write(at, width, data);
    } else {
      read = this.#kernelReads(bus, at, width) ?? bus.read(at, width);
    }
    const what = (): string => `${write ? 'a write' : 'a read'} of ${width} at 0x${at.toString(16)} on ${bus.name}`;
    if (read < 0n || read >> BigInt(8 * width)) this.#complain(`${what()} gave 0x${read.toString(16)}`);
    this.#settle(what);
    const low = Number(read & 0xffff_ffffn);
    this.#digest = Math.imul(this.#digest ^ low, 0x01000193);
    return low;
  }

  // What is in the kernel answers first, as on the way of a real access.

  #kernelReads(bus: Bus, at: number, width: Width): bigint | null {
    const { vm, interruptController } = this.#processor;
    if (bus === this.pc.ports) return vm.buses.pio.read(at, width);
    return interruptController?.page.read(at, width) ?? vm.buses.mmio.read(at, width);
  }

  #kernelWrites(bus: Bus, at: number, width: Width, value: bigint): boolean {
    const { vm, interruptController } = this.#processor;
    if (bus === this.pc.ports) return vm.buses.pio.write(at, width, value);
    return interruptController?.page.write(at, width, value) || vm.buses.mmio.write(at, width, value);
  }

  #out(port: number, width: 1 | 2 | 4, value: number): void {
    this.access(this.pc.ports, true, port, width, BigInt(value >>> 0));
  }
  #in(port: number, width: 1 | 2 | 4): number {
    return this.access(this.pc.ports, false, port, width, 0n);
  }
  #store(gpa: number, value: number): void {
    this.access(this.pc.mmio, true, gpa, 4, BigInt(value >>> 0));
  }

  /** The one whose access it is: mostly the first. */
  get #processor(): SoftVcpu {
    return this.#processors[this.random.chance(0.9) ? 0 : 1] as SoftVcpu;
  }

  /** All functions that are somewhere, whoever may reach them at the moment. */
  get functions(): PciFunction[] {
    const { functions } = this.pc.chipset.root;
    return functions.flatMap((fn) => (fn instanceof PciBridge ? [fn, ...fn.secondary.functions] : [fn]));
  }

  #act(): void {
    const random = this.random;
    const roll = random.below(1000);
    if (roll < 300) this.#anywhere(this.pc.ports, random.pick(PORTS), SKIPPED);
    else if (roll < 500) this.#anywhere(this.pc.mmio, random.pick(MEMORY));
    else if (roll < 640) this.#region();
    else if (roll < 790) this.#configure();
    else if (roll < 810)
      this.#anywhere(random.chance(0.5) ? this.pc.ports : this.pc.mmio, [random.chance(0.5) ? random.pick(PLACES) : random.next(), 16], SKIPPED);
    else if (roll < 850) this.#mischief.scribble();
    else if (roll < 930) this.#mischief.act();
    else if (roll < 960) this.#pass();
    else if (roll < 998) this.#take();
    else this.#execute();
  }

  /** An access to some place in a window. */
  #anywhere(bus: Bus, [start, bytes]: readonly [number, number], skip?: { readonly from: number; readonly to: number }): void {
    const random = this.random;
    const at = (start + random.below(bytes) + (random.chance(0.02) ? -4 : 0) + bus.addresses) % bus.addresses;
    const width = random.pick(bus === this.pc.ports ? [1, 1, 2, 4] : WIDTHS) as Width;
    if (skip && at < skip.to && at + width > skip.from) return;
    if (bus === this.pc.ports && at + width > bus.addresses) return;
    const value = (BigInt(hostileValue(random)) << (random.chance(0.1) ? 32n : 0n)) | BigInt(random.chance(0.3) ? hostileValue(random) : 0);
    this.access(bus, random.chance(0.5), at, width, value);
  }

  /** An access to where some region is right now, or to its edge. */
  #region(): void {
    const random = this.random;
    const bars = this.functions.flatMap((fn) => fn.bars.filter((bar) => bar !== null && bar.placed !== null));
    if (bars.length === 0) return;
    const bar = random.pick(bars) as NonNullable<(typeof bars)[number]>;
    const bus = bar.spec.kind === 'io' ? this.pc.ports : this.pc.mmio;
    const offset = random.chance(0.1)
      ? bar.spec.bytes - 4
      : random.chance(0.7)
        ? random.below(Math.min(bar.spec.bytes, 0x4000)) & ~3
        : random.below(bar.spec.bytes);
    this.#anywhere(bus, [(bar.placed as number) + offset, random.chance(0.8) ? 1 : 8], SKIPPED);
  }

  #configure(): void {
    const random = this.random;
    const bus = random.pick([0, 0, 0, 0, 1, 1, 2, 255]);
    const devfn = random.pick([0, 0xf8, 0xf9, 0x08, 0x08, 0xf0, 0x10, random.below(256)]);
    const offset = random.chance(0.8) ? random.pick(CONFIG_REGISTERS) : random.below(256);
    const value = offset === 4 && random.chance(0.7) ? random.pick([7, 7, 6, 0x407, 0]) : hostileValue(random);
    if (random.chance(0.7)) {
      this.#out(0xcf8, 4, (0x8000_0000 | (bus << 16) | (devfn << 8) | (offset & 0xfc)) >>> 0);
      const port = 0xcfc + (random.chance(0.8) ? 0 : offset & 3);
      const width = random.pick([1, 2, 4, 4, 4] as const);
      if (random.chance(0.8)) this.#out(port, width, value);
      else this.#in(port, width);
    } else {
      this.#store(ECAM_GPA + (bus << 20) + (devfn << 12) + (offset & 0xfc), value);
    }
  }

  // ## Time and interrupts

  #pass(): void {
    const random = this.random;
    this.advance(random.chance(0.9) ? random.below(100_000) : random.chance(0.98) ? random.below(1e8) : random.below(1e13));
  }

  advance(ns: number): void {
    const { clock } = this.#kernel;
    const { timers } = this.pc;
    const until = clock.now() + ns;
    for (let naps = 0; naps < MOST_NAPS && clock.now() < until; naps++) clock.sleep(until); // each ends at a timer of the kernel's
    while (timers.next !== null && timers.next <= clock.now()) {
      timers.runDue();
      if (++this.#cost.rounds > MOST.rounds) break;
    }
    this.#settle(() => 'passing time');
  }

  /** What the processors would take is taken, and sometimes ended. */
  #take(): void {
    const random = this.random;
    const { interrupts } = this.pc;
    if (interrupts instanceof UserController || interrupts instanceof SplitController) {
      const { pic } = interrupts.chips;
      if (pic.output && random.chance(0.5)) {
        pic.acknowledge();
        this.#did.interrupts++;
      }
    }
    if (interrupts instanceof UserController) {
      const lapic = interrupts.lapic(random.below(2));
      if (lapic && lapic.pending() >= 0) {
        lapic.acknowledge();
        this.#did.interrupts++;
      }
    }
    if (random.chance(0.7)) this.#store(0xfee0_00b0, 0);
    else this.#out(random.pick([0x20, 0xa0]), 1, 0x20);
    this.#settle(() => 'taking an interrupt');
  }

  // ## The processor
  //
  // It runs in firmware that only waits, until an interrupt sends it through a table that some device may have overwritten. Whatever happens then is
  // the processor's affair; the loop around it has to come back, and a reset has to bring the machine back.

  #execute(): void {
    const { machine, pc } = this;
    if (this.random.chance(0.9)) pc.takeWish(); // or it would never get far
    for (let turn = 0; turn < 4; turn++) {
      const outcome = machine.advance();
      this.#did.exits++;
      this.#settle(() => 'a turn of the processor');
      if (outcome.kind !== 'end') continue;
      if (outcome.end !== 'debug-exit') {
        machine.reset();
        this.#settle(() => 'a reset');
        this.#did.resets++;
      }
      return;
    }
  }

  dispose(): void {
    this.machine.dispose();
  }
}

/** A ROM in which the processor waits, whatever happens. */
function firmware(): Uint8Array {
  const rom = new Uint8Array(ROM_BYTES).fill(0xf4);
  rom.set([0xfb, 0xf4, 0xeb, 0xfc], ROM_BYTES - 16); // STI; HLT; and again
  return rom;
}

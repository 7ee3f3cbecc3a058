// # A machine without anything
//
// A processor, some RAM, a ROM under the reset vector, and two ports. It is the smallest thing that a program can run on, and the yardstick for
// the rest of the book: what a hypervisor gives its guest is to look like this from inside, plus devices.
//
// The ports are those that hobby kernels and emulators have agreed on: a byte written to 0xe9 appears on a console, and a value written to 0xf4
// ends the run.

import { Cpu, type CpuStop } from './cpu.ts';
import type { PhysicalBus } from './mmu/mmu.ts';
import { assert, PhysicalMemory } from './physical-memory.ts';
import { MODE, OFFSET, SEG, SLOT } from './state.ts';
import { loadRealSegment } from './system/descriptors.ts';
import type { PortBus } from './system/ports.ts';
import type { Trace } from './trace.ts';

const DEBUG_CONSOLE = 0xe9;
const DEBUG_EXIT = 0xf4;
const FOUR_GIB = 2 ** 32;

/** What a bare machine is made of. `rom` ends at 4 GiB, so its last 16 bytes are the reset vector. */
interface BareMachineOptions {
  readonly ramBytes?: number;
  readonly rom?: Uint8Array;
  readonly trace?: Trace;
  /** 57: the processor offers 5-level paging. */
  readonly linearAddressBits?: 48 | 57;
}

/** Cpu, RAM, ROM, console and exit port. */
export class BareMachine {
  readonly memory: PhysicalMemory;
  readonly cpu: Cpu;
  /** What the program has written to the console. */
  console = '';
  /** The value that the program has written to the exit port, or null. */
  exitValue: number | null = null;
  /** Ports with handlers of their own: tests put devices here. */
  readonly devices = new Map<number, { read?(bytes: number): number; write?(bytes: number, value: number): void }>();

  constructor({ ramBytes = 4 << 20, rom = new Uint8Array(0), trace, linearAddressBits = 48 }: BareMachineOptions = {}) {
    this.memory = new PhysicalMemory({ ramBytes });
    const ports: PortBus = { read: (port, bytes) => this.#in(port, bytes), write: (port, bytes, value) => this.#out(port, bytes, value) };
    this.cpu = new Cpu({ memory: this.memory, ports, devices: romBus(rom), linearAddressBits, ...(trace && { trace }) });
  }

  #in(port: number, bytes: number): number {
    return this.devices.get(port)?.read?.(bytes) ?? 0xffffffff >>> (32 - 8 * bytes);
  }

  #out(port: number, bytes: number, value: number): void {
    if (port === DEBUG_CONSOLE) this.console += String.fromCharCode(value & 0xff);
    else if (port === DEBUG_EXIT) {
      this.exitValue = value;
      this.cpu.requestStop();
    } else this.devices.get(port)?.write?.(bytes, value);
  }

  /** Puts bytes into RAM. */
  load(address: number, code: Uint8Array | readonly number[]): void {
    this.memory.slice(address, code.length).set(code);
    this.cpu.engine.memoryChanged();
  }

  /** Makes real-mode code at `address`, below 1 MiB, the next to run. */
  startReal(address: number): void {
    assert(address < 0x100000, 'real-mode code lies below 1 MiB');
    const { cpu } = this;
    loadRealSegment(cpu, SEG.CS, (address >> 4) & 0xf000);
    const offset = address - Number(cpu.state.segBase(SEG.CS));
    for (const slot of [SLOT.RIP, SLOT.NEXT_RIP]) cpu.state.setSlotNumber(slot, offset);
    cpu.modeChanged();
  }

  /** Runs until the program ends itself, or a reason to stop arises. */
  run(maxInstructions = 1_000_000): CpuStop {
    return this.cpu.run(maxInstructions);
  }

  /** True while the processor executes 64-bit code. */
  get inLongMode(): boolean {
    return (this.cpu.state.get32(OFFSET.MODE) & MODE.CODE) === MODE.CODE64;
  }
}

/** A bus on which only the ROM answers. Writing to it does nothing. */
function romBus(rom: Uint8Array): PhysicalBus {
  const start = FOUR_GIB - rom.length;
  return {
    read(address, bytes) {
      let value = 0n;
      for (let i = 0; i < bytes; i++) {
        const at = address + i - start;
        value |= BigInt(at >= 0 && at < rom.length ? (rom[at] as number) : 0xff) << BigInt(8 * i);
      }
      return value;
    },
    write() {},
  };
}

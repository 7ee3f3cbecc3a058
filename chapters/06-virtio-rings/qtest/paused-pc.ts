// # A machine that stands still
//
// To drive a device one does not need a guest. One needs what a processor has on its outside: two address spaces to read and write, lines that it
// hears, and time that goes by. This is the PC of the chapters so far with its processors never run. Everything on its buses is alive; nothing
// moves but what is done here, so what a device does in between it has done because of the last access.
//
// It also makes the second half of a conversation visible that a guest only sees the end of. A device that raises a line, and is told to lower it,
// has moved it twice; a guest took one interrupt.

import type { Trace, TraceEvent } from '../../01-hardware-background/trace.ts';
import type { End } from '../../03-vcpu-loop/chassis.ts';
import { loadValue, storeValue, type Width } from '../../03-vcpu-loop/devices/bus.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import type { BlockBackend } from '../../05-pio-mmio/block/block.ts';
import type { Chardev } from '../../05-pio-mmio/machine/chardev.ts';
import type { CompleteConfig } from '../../05-pio-mmio/machine/config.ts';
import { Pc } from '../../05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';

/** Memory and registers do not share a page. */
const PAGE_BYTES = 4096;
/** Physical addresses are below this; above it nobody answers. */
const ADDRESS_LIMIT = 2 ** 52;
/** Registers are reached in units of this size when somebody asks for a block of them. */
const UNIT_BYTES = 4;

interface PausedOptions {
  readonly config: CompleteConfig;
  readonly firmware?: Uint8Array | null;
  readonly blocks?: ReadonlyMap<string, BlockBackend>;
  readonly chardevs?: ReadonlyMap<string, Chardev>;
  readonly trace?: Trace | null;
}

/** Listens to the kernel's interrupt lines, and passes everything on. */
class LineTrace implements Trace {
  now = 0;
  onLine: (gsi: number, level: boolean) => void = () => {};
  readonly #next: Trace | null;

  constructor(next: Trace | null) {
    this.#next = next;
  }

  emit(event: TraceEvent): void {
    if (event.kind === 'kvm_set_irq') this.onLine(event.gsi, event.level !== 0);
    if (!this.#next) return;
    this.#next.now = this.now;
    this.#next.emit(event);
  }
}

export class PausedPc {
  readonly pc: Pc;
  readonly #machine: Machine<Pc>;
  readonly #trace: LineTrace;
  /** What the device side of the lines last said, by number. */
  readonly #levels = new Map<number, boolean>();
  /** Told when a line moves. Timer interrupts are lines too. */
  onLine: (gsi: number, level: boolean) => void = () => {};

  /** @throws ConfigError, RangeError for a machine that cannot be */
  constructor({ config, trace = null, ...opened }: PausedOptions) {
    this.#trace = new LineTrace(trace);
    const kernel = machineKernel(config, { trace: this.#trace });
    this.pc = new Pc({ kernel, config, trace: this.#trace, ...opened });
    this.#machine = new Machine(this.pc.board);
    this.#trace.onLine = (gsi, level) => {
      if ((this.#levels.get(gsi) ?? false) === level) return;
      this.#levels.set(gsi, level);
      this.onLine(gsi, level);
    };
  }

  // ## A processor's accesses

  in(port: number, width: Width): bigint {
    return this.pc.ports.read(port, width);
  }

  out(port: number, width: Width, value: bigint): void {
    this.pc.ports.write(port, width, value);
  }

  load(gpa: number, width: Width): bigint {
    const bytes = new Uint8Array(width);
    if (within(gpa, width) && !this.pc.memory.read(gpa, bytes)) return this.pc.mmio.read(gpa, width);
    if (!within(gpa, width)) this.read(gpa, bytes);
    return loadValue(bytes, 0, width);
  }

  store(gpa: number, width: Width, value: bigint): void {
    const bytes = new Uint8Array(width);
    storeValue(bytes, 0, width, value);
    if (within(gpa, width) && !this.pc.memory.write(gpa, bytes)) this.pc.mmio.write(gpa, width, value);
    else if (!within(gpa, width)) this.write(gpa, bytes);
  }

  // ## Blocks

  /** Reads memory, and registers where there is no memory. */
  read(gpa: number, into: Uint8Array): void {
    eachPage(gpa, into.length, (at, offset, bytes) => {
      const part = into.subarray(offset, offset + bytes);
      if (at >= ADDRESS_LIMIT) part.fill(0xff);
      else if (!this.pc.memory.read(at, part))
        eachUnit(at, bytes, (unit, from, width) => storeValue(part, from, width, this.pc.mmio.read(unit, width)));
    });
  }

  write(gpa: number, from: Uint8Array): void {
    eachPage(gpa, from.length, (at, offset, bytes) => {
      const part = from.subarray(offset, offset + bytes);
      if (at >= ADDRESS_LIMIT || this.pc.memory.write(at, part)) return;
      eachUnit(at, bytes, (unit, start, width) => this.pc.mmio.write(unit, width, loadValue(part, start, width)));
    });
  }

  // ## Lines and time

  /** Drives a line of the board, as a device would. @throws RangeError */
  setLine(gsi: number, level: boolean): void {
    this.pc.interrupts.line(gsi).set(level);
  }

  /** Nanoseconds since the machine was switched on. */
  get now(): number {
    return this.pc.kernel.clock.now();
  }

  /** When something of the board's will happen by itself; null: never. */
  get next(): number | null {
    return this.pc.timers.next;
  }

  /** Lets time pass, and everything happen that is then due. */
  advanceTo(moment: number): void {
    const { kernel, timers } = this.pc;
    for (;;) {
      timers.runDue();
      const now = kernel.clock.now();
      if (now >= moment) return;
      // A timer may arm itself for a moment that is past; time passes nevertheless.
      kernel.clock.sleep(Math.min(moment, Math.max(timers.next ?? moment, now + 1)));
    }
  }

  // ## Ends
  //
  // Some registers end the machine, or begin it anew. A reset is done at once, memory stays; whatever else was asked for is left to whoever drives.

  /** Resets the machine if the last access asked for it. Returns any other end that it asked for. */
  settle(): End | null {
    const wish = this.pc.takeWish();
    if (wish?.kind !== 'end') return null;
    if (wish.end !== 'reset' || !this.pc.config.reboot) return wish.end;
    this.#machine.reset();
    return null;
  }

  dispose(): void {
    this.#machine.dispose();
  }
}

const within = (gpa: number, bytes: number): boolean => gpa + bytes <= ADDRESS_LIMIT && (gpa % PAGE_BYTES) + bytes <= PAGE_BYTES;

function eachPage(gpa: number, length: number, visit: (at: number, offset: number, bytes: number) => void): void {
  for (let offset = 0; offset < length; ) {
    const bytes = Math.min(length - offset, PAGE_BYTES - ((gpa + offset) % PAGE_BYTES));
    visit(gpa + offset, offset, bytes);
    offset += bytes;
  }
}

function eachUnit(gpa: number, length: number, visit: (at: number, offset: number, width: Width) => void): void {
  for (let offset = 0; offset < length; ) {
    let width: Width = UNIT_BYTES;
    while (width > length - offset || (gpa + offset) % width !== 0) width = (width / 2) as Width;
    visit(gpa + offset, offset, width);
    offset += width;
  }
}

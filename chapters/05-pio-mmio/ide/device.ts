// # A device on the cable
//
// Disk or CD-ROM, a device on an ATA cable goes through the same motions: it is *busy*, or it has a block of *data* for the host to move, or it is
// *idle* with a result. This class is those motions. What the commands mean is its subclasses' business.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import { describe, field, kind, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import { COMMAND_NS, RESET_NS, STATUS } from './task-file.ts';

/** The bytes of one command that go by direct memory access. */
export interface DmaPhase {
  /** True when the device is read. */
  readonly toMemory: boolean;
  /** Bytes still to go. */
  readonly remaining: number;
  /** Takes up to `bytes` from the device. Null when the medium failed; the device has then ended the command. */
  take(bytes: number): Uint8Array | null;
  /** Gives bytes, at most {@link remaining}, to the device. False when the medium failed; the device has then ended the command. */
  put(bytes: Uint8Array): boolean;
  // The last byte that leaves the device is not the end: it has to be in memory before anybody is told. So the bus master says when that is.
  /** Everything has arrived: the device ends the command, and interrupts. */
  end(): void;
}

/** What a device tells the channel it is on. */
interface Cable {
  /** INTRQ or the status changed. */
  changed(): void;
  /** The device asserts DMARQ: it is ready for the bus master. */
  dmaRequested(): void;
}

/** The registers that a driver writes; `previous` holds what each held before, for 48-bit commands. */
interface TaskFile {
  features: number;
  count: number;
  low: number;
  mid: number;
  high: number;
}

const emptyTaskFile = (): TaskFile => ({ features: 0, count: 0, low: 0, mid: 0, high: 0 });

/** A block of data that the host moves through the data register. */
interface PioPhase {
  readonly bytes: Uint8Array;
  readonly toHost: boolean;
  at: number;
  readonly then: () => void;
}

const TASK = kind.record<TaskFile>({ features: kind.u8, count: kind.u8, low: kind.u8, mid: kind.u8, high: kind.u8 });

export abstract class AtaDevice {
  readonly task = emptyTaskFile();
  readonly previous = emptyTaskFile();
  deviceHead = 0;
  status = 0;
  error = 0;
  /** The device's wish to interrupt. The cable carries the selected device's only, and not while nIEN is set. */
  intrq = false;
  dma: DmaPhase | null = null;
  #pio: PioPhase | null = null;
  readonly #clock: Clock;
  readonly #timer: Timer;
  #then: () => void = () => {};
  #cable: Cable | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#timer = clock.timer(() => this.#then());
  }

  plug(cable: Cable): void {
    this.#cable = cable;
    this.signature();
  }

  /** Carries out a command; unknown ones are for {@link abort}. */
  abstract execute(command: number): void;
  /** What a reset leaves in the registers, by which a driver knows what kind of device this is. */
  protected abstract signature(): void;
  /** Settings that a reset loses. */
  protected abstract forget(hardware: boolean): void;

  /** Busy, or in the middle of a transfer: nothing may be written to the task file. */
  get engaged(): boolean {
    return (this.status & (STATUS.BSY | STATUS.DRQ)) !== 0;
  }

  // Each register is two deep; a write pushes.
  writeTask(register: keyof TaskFile, value: number): void {
    if (this.engaged) return;
    this.previous[register] = this.task[register];
    this.task[register] = value;
  }

  /** Takes PACKET commands, and DEVICE RESET at any time. */
  get packet(): boolean {
    return false;
  }

  /** EXECUTE DEVICE DIAGNOSTIC: as after a reset, with the result in the error register. Device 0 interrupts for both. */
  diagnose(interrupt: boolean): void {
    this.busy(() => {
      this.signature();
      this.#interrupt(interrupt);
    });
  }

  acknowledge(): void {
    this.#interrupt(false);
  }

  // ## Reset
  //
  // Whatever was going on is over: the timer is cancelled, so that an answer to a command of before the reset can never arrive after it.

  /** SRST is held: busy, and deaf. */
  holdReset(): void {
    this.#drop();
    this.status = STATUS.BSY;
    this.#interrupt(false);
  }

  // @clause ata.reset.signature
  releaseReset(): void {
    this.#later(RESET_NS, () => {
      this.forget(false);
      this.signature();
      this.#cable?.changed();
    });
  }

  /** Power-on and bus reset. */
  hardReset(): void {
    this.#drop();
    this.forget(true);
    this.#interrupt(false);
    this.signature();
  }

  #drop(): void {
    this.#timer.cancel();
    this.#pio = null;
    this.dma = null;
  }

  // ## Being busy
  //
  // Every command makes the device busy for a while; `then` is what it does when the while is over.

  #later(ns: number, then: () => void): void {
    this.#drop();
    this.status = STATUS.BSY;
    this.#then = then;
    this.#timer.arm(this.#clock.now() + ns);
  }

  protected busy(then: () => void, moreNs = 0): void {
    this.#later(COMMAND_NS + moreNs, then);
  }

  /** Ends the command: ready, and the host is told. */
  protected finish(status = STATUS.DRDY | STATUS.DSC): void {
    this.#drop();
    this.status = status;
    this.#interrupt(true);
  }

  // @clause ata.error.reported
  /** Ends the command with an error. */
  protected fail(error: number, more = 0): void {
    this.error = error;
    this.finish(STATUS.DRDY | STATUS.DSC | STATUS.ERR | more);
  }

  #interrupt(level: boolean): void {
    this.intrq = level;
    this.#cable?.changed();
  }

  // ## Data through the port
  //
  // DRQ says that the data register has something to give or wants something. A device that gives interrupts when the block is ready; one that
  // takes the *first* block of a command does not, because the driver is waiting for it at that very moment.

  /** Offers a block to the host; continues when the last word has been read. */
  protected offer(bytes: Uint8Array, then: () => void): void {
    this.#pio = { bytes, toHost: true, at: 0, then };
    this.status = STATUS.DRDY | STATUS.DSC | STATUS.DRQ;
    this.#interrupt(true);
  }

  /** Asks the host for a block; continues when the last word has been written. */
  protected ask(bytes: Uint8Array, then: () => void, { interrupt }: { readonly interrupt: boolean }): void {
    this.#pio = { bytes, toHost: false, at: 0, then };
    this.status = STATUS.DRDY | STATUS.DSC | STATUS.DRQ;
    if (interrupt) this.#interrupt(true);
    else this.#cable?.changed();
  }

  /** The block was the last: not busy, nothing more to say. */
  protected rest(): void {
    this.#drop();
    this.status = STATUS.DRDY | STATUS.DSC;
    this.#cable?.changed();
  }

  readData(): number {
    const pio = this.#pio;
    if (!pio?.toHost) return 0;
    const value = (pio.bytes[pio.at] as number) | ((pio.bytes[pio.at + 1] ?? 0) << 8);
    this.#advance(pio);
    return value;
  }

  /** As many whole items as there are and fit; returns how many bytes they are. */
  readBlock(into: Uint8Array, itemBytes: number): number {
    const pio = this.#pio;
    if (!pio?.toHost) return 0;
    const room = Math.min(into.length, pio.bytes.length - pio.at);
    const bytes = room - (room % itemBytes);
    if (bytes > 0) {
      into.set(pio.bytes.subarray(pio.at, pio.at + bytes));
      this.#advance(pio, bytes);
    }
    return bytes;
  }

  writeData(value: number): void {
    const pio = this.#pio;
    if (!pio || pio.toHost) return;
    pio.bytes[pio.at] = value;
    if (pio.at + 1 < pio.bytes.length) pio.bytes[pio.at + 1] = value >> 8;
    this.#advance(pio);
  }

  #advance(pio: PioPhase, bytes = 2): void {
    pio.at += bytes;
    if (pio.at < pio.bytes.length) return;
    this.#pio = null;
    pio.then();
  }

  // ## Data by the bus master
  //
  // The device asserts DMARQ and waits. If the driver has programmed the bus master, it comes at once; if not, the device waits until it does, or
  // until somebody loses patience and resets it.

  protected requestDma(phase: DmaPhase): void {
    this.dma = phase;
    this.status = STATUS.DRDY | STATUS.DSC | STATUS.DRQ;
    this.#cable?.dmaRequested();
  }

  // ## State
  //
  // What a command does next is a function, and no function can be written down. A device is busy for a few microseconds at a time, so whoever saves
  // the machine lets it go on until the command is over.

  /** In the middle of a command. */
  get busyNow(): boolean {
    return this.engaged || this.#timer.at !== null || this.#pio !== null || this.dma !== null;
  }

  static readonly STATE = describe<AtaDevice>('ATA device', 1, {
    registers: field(
      kind.record({ deviceHead: kind.u8, status: kind.u8, error: kind.u8, intrq: kind.flag }),
      ({ deviceHead, status, error, intrq }) => ({ deviceHead, status, error, intrq }),
      (device, v) => {
        ({ deviceHead: device.deviceHead, status: device.status, error: device.error, intrq: device.intrq } = v);
      },
    ),
    task: field(
      TASK,
      ({ task }) => task,
      ({ task }, v) => void Object.assign(task, v),
    ),
    previous: field(
      TASK,
      ({ previous }) => previous,
      ({ previous }, v) => void Object.assign(previous, v),
    ),
  });

  /** What is saved of it. */
  savedPart(name: string): SavedPart {
    return savedPart<AtaDevice>(name, this, AtaDevice.STATE);
  }
}

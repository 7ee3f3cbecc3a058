// # One cable, two drives
//
// Both drives on a cable hear everything the host writes; each knows whether it is device 0 or device 1, and the DEV bit says which of them is meant.
// Nobody arbitrates. From that follow the oddities that drivers are full of: a status read just after a drive was selected may be the other's;
// reading the registers of a drive that is not there gives those of the one that is.

import { type Registers, storeValue, type Width } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import { RegisterFile } from '../registers.ts';
import type { Wire } from '../wires.ts';
import type { AtaDevice, DmaPhase } from './device.ts';
import { CONTROL, CONTROL_BLOCK, DEVICE, STATUS, TASK_FILE } from './task-file.ts';

const EXECUTE_DEVICE_DIAGNOSTIC = 0x90;
const DEVICE_RESET = 0x08;

/** What a bus master, if there is one, listens to. */
interface ChannelListener {
  /** INTRQ rose. */
  interrupted(): void;
  /** The selected device wants its data moved. */
  dmaRequested(): void;
}

export class AtaChannel {
  /** The eight ports of the command block. */
  readonly command: Registers;
  /** The control port. */
  readonly control: Registers;
  readonly #devices: readonly [AtaDevice | null, AtaDevice | null];
  readonly #irq: Wire;
  #listener: ChannelListener | null = null;
  #unit = 0;
  #controlBits = 0;
  #level = false;

  constructor(devices: readonly [AtaDevice | null, AtaDevice | null], irq: Wire) {
    this.#devices = devices;
    this.#irq = irq;
    devices.forEach((device, unit) => {
      device?.plug({
        changed: () => this.#update(),
        dmaRequested: () => {
          if (unit === this.#unit) this.#listener?.dmaRequested();
        },
      });
    });
    const task = this.#taskFile();
    this.command = {
      name: TASK_FILE.device,
      read: (offset, width) => (offset === 0 ? this.#readData(width) : task.read(offset, width)),
      write: (offset, width, value) => (offset === 0 ? this.#writeData(width, value) : task.write(offset, width, value)),
      readString: (offset, width, into) => this.#readString(offset, width, into),
    };
    this.control = new RegisterFile(CONTROL_BLOCK, {
      ALTERNATE_STATUS_CONTROL: { read: () => this.#status, write: (value) => this.#writeControl(value) },
    });
  }

  listen(listener: ChannelListener): void {
    this.#listener = listener;
  }

  /** What the selected device wants to have moved by the bus master. */
  get dma(): DmaPhase | null {
    return this.#selected?.dma ?? null;
  }

  /** The level of the interrupt line. */
  get interrupting(): boolean {
    return this.#level;
  }

  /** Power-on and bus reset. */
  reset(): void {
    this.#unit = 0;
    this.#controlBits = 0;
    for (const device of this.#devices) device?.hardReset();
    this.#update();
  }

  get #selected(): AtaDevice | null {
    return this.#devices[this.#unit] ?? null;
  }

  /** Whoever answers reads: device 0 answers for a device 1 that is not there. */
  get #answering(): AtaDevice | null {
    return this.#selected ?? this.#devices[0];
  }

  // With nobody selected the data lines are pulled down: no busy, no ready, no device.
  // @clause ata.absent.status-zero
  get #status(): number {
    return this.#selected?.status ?? 0;
  }

  // ## The interrupt line
  //
  // INTRQ is the selected device's, and nIEN takes the host's end off the line. Reading the status acknowledges; reading the *alternate* status, which
  // is the same byte at another port, does not. A driver that polls one and takes interrupts by the other needs exactly that.

  #update(): void {
    const level = (this.#selected?.intrq ?? false) && !(this.#controlBits & CONTROL.NIEN);
    if (level === this.#level) return;
    this.#level = level;
    if (level) this.#listener?.interrupted();
    this.#irq.set(level);
  }

  // ## The registers

  #taskFile(): RegisterFile<keyof (typeof TASK_FILE)['rows'] & string> {
    const two = (register: 'features' | 'count' | 'low' | 'mid' | 'high') => ({
      read: () => {
        const device = this.#answering;
        if (!device) return 0;
        return (this.#controlBits & CONTROL.HOB ? device.previous : device.task)[register];
      },
      write: (value: number) => this.#writeTask((device) => device.writeTask(register, value)),
    });
    return new RegisterFile(TASK_FILE, {
      ERROR_FEATURES: { read: () => this.#answering?.error ?? 0, write: two('features').write },
      SECTOR_COUNT: two('count'),
      LBA_LOW: two('low'),
      LBA_MID: two('mid'),
      LBA_HIGH: two('high'),
      DEVICE: { read: () => (this.#answering ? 0xa0 | this.#answering.deviceHead : 0), write: (value) => this.#select(value) },
      STATUS_COMMAND: { read: () => this.#acknowledge(), write: (value) => this.#execute(value) },
    });
  }

  // While the selected device is busy or transferring, writes to the command block are lost.
  #writeTask(write: (device: AtaDevice) => void): void {
    this.#controlBits &= ~CONTROL.HOB;
    if (this.#selected?.engaged) return;
    for (const device of this.#devices) if (device) write(device);
  }

  #select(value: number): void {
    this.#writeTask((device) => {
      if (!device.engaged) device.deviceHead = value;
    });
    if (!this.#selected?.engaged) this.#unit = value & DEVICE.DEV ? 1 : 0;
    this.#update();
  }

  // @clause ata.status.acknowledges
  // @clause ata.alternate-status.keeps
  #acknowledge(): number {
    const status = this.#status;
    this.#selected?.acknowledge();
    return status;
  }

  #execute(command: number): void {
    this.#controlBits &= ~CONTROL.HOB;
    if (this.#controlBits & CONTROL.SRST) return;
    if (command === EXECUTE_DEVICE_DIAGNOSTIC) {
      this.#diagnose();
      return;
    }
    const device = this.#selected;
    if (!device || (device.engaged && !(command === DEVICE_RESET && device.packet))) return;
    device.acknowledge(); // a new command withdraws the old interrupt
    device.execute(command);
  }

  // Both devices test themselves, and device 0 reports for both.
  #diagnose(): void {
    if (this.#selected?.engaged) return;
    this.#unit = 0;
    this.#devices.forEach((device, unit) => {
      device?.diagnose(unit === 0);
    });
    this.#update();
  }

  // @clause ata.srst
  #writeControl(value: number): void {
    const before = this.#controlBits;
    this.#controlBits = value & (CONTROL.HOB | CONTROL.SRST | CONTROL.NIEN);
    if (value & ~before & CONTROL.SRST) for (const device of this.#devices) device?.holdReset();
    if (before & ~value & CONTROL.SRST) {
      this.#unit = 0;
      for (const device of this.#devices) device?.releaseReset();
    }
    this.#update();
  }

  // ## The data register
  //
  // Sixteen bits at a time on the cable. A 32-bit access by the host becomes two of them in the controller, which halves the number of exits; a byte
  // access moves sixteen bits and loses eight.

  // @clause ata.data.widths
  #readData(width: Width): bigint {
    const words = width <= 2 ? 1 : width / 2;
    let value = 0n;
    for (let word = 0; word < words; word++) {
      const data = this.#status & STATUS.DRQ ? (this.#selected?.readData() ?? 0) : 0;
      value |= BigInt(data) << BigInt(16 * word);
    }
    return width === 1 ? value & 0xffn : value;
  }

  // A string instruction fetches a sector at a time, and so it is copied: as much as the drive has, in whole items.
  #readString(offset: number, width: Width, into: Uint8Array): void {
    for (let at = 0; at < into.length; ) {
      const block = offset === 0 && width > 1 && this.#status & STATUS.DRQ ? (this.#selected?.readBlock(into.subarray(at), width) ?? 0) : 0;
      if (block === 0) storeValue(into, at, width, this.command.read(offset, width));
      at += block || width;
    }
  }

  #writeData(width: Width, value: bigint): void {
    const words = width <= 2 ? 1 : width / 2;
    for (let word = 0; word < words; word++) {
      if (this.#status & STATUS.DRQ) this.#selected?.writeData(Number((value >> BigInt(16 * word)) & 0xffffn));
    }
  }

  static readonly STATE = describe<AtaChannel>('ATA channel', 1, {
    registers: field(
      kind.record({ unit: kind.upTo(1), controlBits: kind.u8, level: kind.flag }),
      (c) => ({ unit: c.#unit, controlBits: c.#controlBits, level: c.#level }),
      (c, v) => {
        ({ unit: c.#unit, controlBits: c.#controlBits, level: c.#level } = v);
      },
    ),
  });

  /** One of its drives is in the middle of a command. */
  get busyNow(): boolean {
    return this.#devices.some((device) => device?.busyNow);
  }

  /** What is saved of it and of its drives. */
  savedParts(name: string): SavedPart[] {
    const drives = this.#devices.flatMap((device, unit) => (device ? [device.savedPart(`${name} drive ${unit}`)] : []));
    return [...drives, savedPart(name, this, AtaChannel.STATE)];
  }
}

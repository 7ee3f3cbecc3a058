// # The bus master
//
// Moving a sector through a port costs the processor 256 reads. The PIIX chip, and every PC chipset after it, has a small engine that moves data for
// it: the driver writes a list of memory regions, points the engine at it, gives the disk a DMA command and presses start. In a virtual machine the
// gain is larger than on metal, because what was an exit for each string instruction is now nothing at all.
//
// ::layout BUS_MASTER -- Two of these blocks of eight ports, one for each channel.
//
// The list is the *physical region descriptor table*. An entry is an address, a byte count and a bit that says "last".
//
// ::layout PhysicalRegionDescriptor -- Eight bytes. A count of zero means 64 KiB; the region and the table each stay within one 64 KiB block.

import { layout, u16le, u32le } from '../../01-hardware-background/layout.ts';
import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, parts } from '../../03-vcpu-loop/devices/state.ts';
import { RegisterFile, registerTable } from '../registers.ts';
import type { DmaTarget } from '../wires.ts';
import type { AtaChannel } from './channel.ts';

export const BUS_MASTER = registerTable('ide-bus-master', 'SFF-8038i, Bus Master IDE Register Description', {
  COMMAND: { offset: 0, bytes: 1, access: 'rw', count: 2, stride: 8, text: 'bit 0 starts and stops; bit 3: the device is read and memory written' },
  STATUS: {
    offset: 2,
    bytes: 1,
    access: 'rw1c',
    count: 2,
    stride: 8,
    text: 'active, error, interrupt; bits 5 and 6 are the drivers’ own note that a drive does DMA',
  },
  PRDT: { offset: 4, bytes: 4, access: 'rw', count: 2, stride: 8, text: 'where the descriptor table is, on a dword boundary' },
});

export const BUS_MASTER_PORTS = 16;

export const PhysicalRegionDescriptor = layout('physical region descriptor', {
  address: u32le(0), // even
  count: u16le(4), // bytes, even
  flags: u16le(6), // bit 15: the last entry
});
const END_OF_TABLE = 0x8000;
const BLOCK_BYTES = 0x1_0000;

const BM_COMMAND = { START: 0x01, TO_MEMORY: 0x08 } as const;
const BM_STATUS = { ACTIVE: 0x01, ERROR: 0x02, INTERRUPT: 0x04, CAPABLE: 0x60 } as const;

// A table that fills its 64 KiB block has {{TABLE_ENTRIES}} entries. The address wraps within the block, so a table without an end would be read for
// ever: each entry may be as small as two bytes, and a command as large as 32 MiB. An engine that comes round again reports an error instead.

/** The most entries that a table can have. */
export const TABLE_ENTRIES = BLOCK_BYTES / PhysicalRegionDescriptor.bytes;

/** The engine of one channel. */
class Engine {
  command = 0;
  status = 0;
  prdt = 0;
  readonly #channel: AtaChannel;
  readonly #dma: DmaTarget;
  readonly #trace: Trace | null;
  readonly #entry = new Uint8Array(PhysicalRegionDescriptor.bytes);
  /** Entries read, and what the current one has left. */
  #entries = 0;
  #address = 0;
  #left = 0;
  #last = false;

  constructor(channel: AtaChannel, dma: DmaTarget, trace: Trace | null) {
    this.#channel = channel;
    this.#dma = dma;
    this.#trace = trace;
    channel.listen({
      // @clause ide.bus-master.interrupt-bit
      interrupted: () => {
        this.status |= BM_STATUS.INTERRUPT;
      },
      dmaRequested: () => this.#move(),
    });
  }

  reset(): void {
    this.command = this.status = this.prdt = 0;
    this.#left = 0;
  }

  // Stopping forgets the position: a transfer cannot be continued.
  // @clause ide.bus-master.start-stop
  writeCommand(value: number): void {
    const before = this.command;
    this.command = value & (BM_COMMAND.START | BM_COMMAND.TO_MEMORY);
    if (!(value & BM_COMMAND.START)) {
      this.status &= ~BM_STATUS.ACTIVE;
    } else if (!(before & BM_COMMAND.START)) {
      this.status |= BM_STATUS.ACTIVE;
      this.#entries = 0;
      this.#left = 0;
      this.#last = false;
      this.#move();
    }
  }

  // @clause ide.bus-master.status
  writeStatus(value: number): void {
    const cleared = value & (BM_STATUS.ERROR | BM_STATUS.INTERRUPT);
    this.status = (this.status & ~cleared & ~BM_STATUS.CAPABLE) | (value & BM_STATUS.CAPABLE);
  }

  // How a transfer went is told by two bits together. Interrupt and not active: all of it, and the table was used up. Interrupt and still
  // active: all of it, and the table could have held more. Neither: the table was too short, and the disk waits for the rest with its DRQ set.

  // @clause ide.bus-master.table-end
  #move(): void {
    const phase = this.#channel.dma;
    if (!phase || !(this.status & BM_STATUS.ACTIVE)) return;
    if (phase.toMemory !== ((this.command & BM_COMMAND.TO_MEMORY) !== 0)) {
      this.#fault();
      return;
    }
    while (phase.remaining > 0) {
      if (this.#left === 0) {
        if (this.#last) {
          this.status &= ~BM_STATUS.ACTIVE;
          return;
        }
        if (!this.#next()) {
          this.#fault();
          return;
        }
      }
      const bytes = Math.min(this.#left, phase.remaining);
      const piece = phase.toMemory ? phase.take(bytes) : new Uint8Array(bytes);
      if (piece === null) return; // the device has said why
      if (phase.toMemory ? !this.#dma.write(this.#address, piece) : !this.#dma.read(this.#address, piece)) {
        this.#fault();
        return;
      }
      if (!phase.toMemory && !phase.put(piece)) return;
      this.#address += piece.length;
      this.#left -= piece.length;
    }
    if (this.#left === 0 && this.#last) this.status &= ~BM_STATUS.ACTIVE;
    phase.end();
  }

  /** Reads the next entry; false when the table is no table. */
  #next(): boolean {
    if (this.#entries === TABLE_ENTRIES) return false;
    const block = this.prdt - (this.prdt % BLOCK_BYTES);
    const at = block + ((this.prdt + PhysicalRegionDescriptor.bytes * this.#entries++) % BLOCK_BYTES);
    if (!this.#dma.read(at, this.#entry)) return false;
    const { address, count, flags } = PhysicalRegionDescriptor.decode(this.#entry);
    this.#address = address - (address % 2);
    this.#left = count & 0xfffe || BLOCK_BYTES;
    this.#last = (flags & END_OF_TABLE) !== 0;
    this.#trace?.emit({ kind: 'device', device: BUS_MASTER.device, what: 'region', value: this.#left });
    // @clause ide.bus-master.region-boundary
    return (this.#address % BLOCK_BYTES) + this.#left <= BLOCK_BYTES;
  }

  // The engine could not reach memory. It stops; the disk is left waiting, and the driver's time-out or the error bit tells.
  // @clause ide.bus-master.error
  #fault(): void {
    this.status = (this.status & ~BM_STATUS.ACTIVE) | BM_STATUS.ERROR;
  }

  static readonly STATE = describe<Engine>('bus master engine', 1, {
    registers: field(
      kind.record({ command: kind.u8, status: kind.u8, prdt: kind.u32 }),
      ({ command, status, prdt }) => ({ command, status, prdt }),
      (engine, v) => void Object.assign(engine, v),
    ),
    progress: field(
      kind.record({ entries: kind.upTo(TABLE_ENTRIES), address: kind.safe, left: kind.upTo(BLOCK_BYTES), last: kind.flag }),
      (e) => ({ entries: e.#entries, address: e.#address, left: e.#left, last: e.#last }),
      (e, v) => {
        ({ entries: e.#entries, address: e.#address, left: e.#left, last: e.#last } = v);
      },
    ),
  });
}

/** Both channels' engines, as the 16 ports of the function's BAR 4. */
export class BusMaster {
  readonly registers: Registers;
  readonly #engines: readonly Engine[];

  constructor(channels: readonly [AtaChannel, AtaChannel], dma: DmaTarget, trace: Trace | null = null) {
    const engines = channels.map((channel) => new Engine(channel, dma, trace));
    const engine = (index: number): Engine => engines[index] as Engine;
    this.#engines = engines;
    this.registers = new RegisterFile(BUS_MASTER, {
      COMMAND: { read: (index) => engine(index).command, write: (value, index) => engine(index).writeCommand(value) },
      STATUS: { read: (index) => engine(index).status, write: (value, index) => engine(index).writeStatus(value) },
      PRDT: {
        read: (index) => engine(index).prdt,
        write: (value, index) => {
          engine(index).prdt = (value & ~3) >>> 0;
        },
      },
    });
  }

  reset(): void {
    for (const engine of this.#engines) engine.reset();
  }

  static readonly STATE = describe<BusMaster>('bus master', 1, { engines: parts((master) => master.#engines, Engine.STATE) });
}

// # The disk
//
// Some sixty command codes are in use, and they are one idea in several dresses: *read or write a run of sectors*, by three kinds of address, by two
// ways of moving data, with one interrupt for each sector or for several. The table below takes each code apart into those choices; the code
// after it is written once.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Clock } from '../../02-kvm-objects/clock.ts';
import { describe, field, kind, part, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import { type BlockBackend, SECTOR_BYTES } from '../block/block.ts';
import { AtaDevice, type DmaPhase } from './device.ts';
import { CHS_LIMIT, defaultGeometry, type Geometry, identifyDisk, LBA28_LIMIT, MULTIPLE_LIMIT, TRANSFER_LIMIT } from './identify.ts';
import { DEVICE, ERROR, SECTOR_NS, STATUS } from './task-file.ts';

/** One of the codes that move sectors, or check them. */
interface Transfer {
  readonly name: string;
  readonly write: boolean;
  readonly by: 'sector' | 'multiple' | 'dma' | 'verify';
  readonly bits: 28 | 48;
}

const transfer = (name: string, write: boolean, by: Transfer['by'], bits: 28 | 48): Transfer => ({ name, write, by, bits });

// biome-ignore format: table
const TRANSFERS: ReadonlyMap<number, Transfer> = new Map([
  [0x20, transfer('READ SECTORS', false, 'sector', 28)],     [0x21, transfer('READ SECTORS', false, 'sector', 28)], // 21: without retry
  [0x24, transfer('READ SECTORS EXT', false, 'sector', 48)], [0x25, transfer('READ DMA EXT', false, 'dma', 48)],
  [0x29, transfer('READ MULTIPLE EXT', false, 'multiple', 48)],
  [0x30, transfer('WRITE SECTORS', true, 'sector', 28)],     [0x31, transfer('WRITE SECTORS', true, 'sector', 28)],
  [0x34, transfer('WRITE SECTORS EXT', true, 'sector', 48)], [0x35, transfer('WRITE DMA EXT', true, 'dma', 48)],
  [0x39, transfer('WRITE MULTIPLE EXT', true, 'multiple', 48)],
  [0x40, transfer('READ VERIFY', false, 'verify', 28)],      [0x41, transfer('READ VERIFY', false, 'verify', 28)],
  [0x42, transfer('READ VERIFY EXT', false, 'verify', 48)],
  [0xc4, transfer('READ MULTIPLE', false, 'multiple', 28)],  [0xc5, transfer('WRITE MULTIPLE', true, 'multiple', 28)],
  [0xc8, transfer('READ DMA', false, 'dma', 28)],            [0xc9, transfer('READ DMA', false, 'dma', 28)],
  [0xca, transfer('WRITE DMA', true, 'dma', 28)],            [0xcb, transfer('WRITE DMA', true, 'dma', 28)],
]);

// biome-ignore format: table
const COMMAND = {
  READ_NATIVE_MAX_EXT: 0x27, INITIALIZE_PARAMETERS: 0x91, SET_MULTIPLE: 0xc6, FLUSH: 0xe7, FLUSH_EXT: 0xea, IDENTIFY: 0xec,
  SET_FEATURES: 0xef, READ_NATIVE_MAX: 0xf8, CHECK_POWER: 0xe5, CHECK_POWER_OLD: 0x98, SLEEP: 0xe6, SLEEP_OLD: 0x99,
} as const;
/** STANDBY and IDLE, at once or after a time, each with its code of before ATA-3: does the disk spin afterwards? */
const POWER: ReadonlyMap<number, boolean> = new Map([
  ...([0xe0, 0x94, 0xe2, 0x96] as const).map((code) => [code, false] as const), // STANDBY IMMEDIATE, STANDBY
  ...([0xe1, 0x95, 0xe3, 0x97] as const).map((code) => [code, true] as const), // IDLE IMMEDIATE, IDLE
]);
const FEATURE = {
  WRITE_CACHE_ON: 0x02,
  TRANSFER_MODE: 0x03,
  KEEP_SETTINGS: 0x66,
  LOOK_AHEAD_OFF: 0x55,
  LOOK_AHEAD_ON: 0xaa,
  WRITE_CACHE_OFF: 0x82,
  DEFAULTS: 0xcc,
} as const;
const POWER_ACTIVE = 0xff;

/** The most that a bus-master transfer holds at a time. */
const DMA_CHUNK_SECTORS = 128;

interface DiskOptions {
  readonly clock: Clock;
  readonly block: BlockBackend;
  readonly serial?: string;
  readonly model?: string;
  readonly isDevice1?: boolean;
  readonly name?: string;
  readonly trace?: Trace | null;
}

export class AtaDisk extends AtaDevice {
  readonly #block: BlockBackend;
  readonly #serial: string;
  readonly #model: string;
  readonly #isDevice1: boolean;
  readonly #name: string;
  readonly #trace: Trace | null;
  readonly #geometry: Geometry;
  #current: Geometry;
  #multiple = 0;
  #transferMode = 0;
  #writeCache = true;
  #spinning = true;
  #asleep = false;

  constructor({ clock, block, serial = 'RB0001', model = 'RINGBOOK DISK', isDevice1 = false, name = 'disk', trace = null }: DiskOptions) {
    super(clock);
    this.#block = block;
    this.#serial = serial;
    this.#model = model;
    this.#isDevice1 = isDevice1;
    this.#name = name;
    this.#trace = trace;
    this.#geometry = defaultGeometry(block.sectors);
    this.#current = this.#geometry;
  }

  protected signature(): void {
    Object.assign(this.task, { features: 0, count: 1, low: 1, mid: 0, high: 0 });
    Object.assign(this.previous, { features: 0, count: 0, low: 0, mid: 0, high: 0 });
    this.deviceHead = 0;
    this.error = 1; // self-test passed
    this.status = STATUS.DRDY | STATUS.DSC;
  }

  // A software reset keeps what SET FEATURES and the like have set up; power-on does not.
  protected forget(hardware: boolean): void {
    this.#asleep = false;
    this.#spinning = true;
    if (!hardware) return;
    this.#current = this.#geometry;
    this.#multiple = 0;
    this.#transferMode = 0;
    this.#writeCache = true;
  }

  // ## Where
  //
  // Cylinder, head and sector; 28 bits of block address; or 48, in registers two deep. Sectors within a track count from one, so sector zero exists
  // nowhere.

  // @clause ata.address.chs
  // @clause ata.address.lba28
  // @clause ata.address.lba48
  /** The address in the task file; null when the driver has asked for one that cannot be. */
  #address(bits: 28 | 48): number | null {
    const { low, mid, high } = this.task;
    if (bits === 48) {
      if (!(this.deviceHead & DEVICE.LBA)) return null;
      const { low: low3, mid: mid4, high: high5 } = this.previous;
      return low + mid * 2 ** 8 + high * 2 ** 16 + low3 * 2 ** 24 + mid4 * 2 ** 32 + high5 * 2 ** 40;
    }
    if (this.deviceHead & DEVICE.LBA) return low + mid * 2 ** 8 + high * 2 ** 16 + (this.deviceHead & 0x0f) * 2 ** 24;
    const { heads, sectorsPerTrack } = this.#current;
    const head = this.deviceHead & 0x0f;
    if (low === 0 || low > sectorsPerTrack || head >= heads) return null;
    return ((mid + high * 256) * heads + head) * sectorsPerTrack + low - 1;
  }

  #store(sector: number, bits: 28 | 48): void {
    const byte = (at: number): number => Math.floor(sector / 2 ** (8 * at)) & 0xff;
    if (bits === 48) {
      Object.assign(this.task, { low: byte(0), mid: byte(1), high: byte(2) });
      Object.assign(this.previous, { low: byte(3), mid: byte(4), high: byte(5) });
    } else if (this.deviceHead & DEVICE.LBA) {
      Object.assign(this.task, { low: byte(0), mid: byte(1), high: byte(2) });
      this.deviceHead = (this.deviceHead & 0xf0) | (byte(3) & 0x0f);
    } else {
      const { heads, sectorsPerTrack } = this.#current;
      const cylinder = Math.floor(sector / (heads * sectorsPerTrack));
      Object.assign(this.task, { low: (sector % sectorsPerTrack) + 1, mid: cylinder & 0xff, high: (cylinder >> 8) & 0xff });
      this.deviceHead = (this.deviceHead & 0xf0) | (Math.floor(sector / sectorsPerTrack) % heads);
    }
  }

  // ## Commands

  execute(command: number): void {
    if (this.#asleep) return; // only a reset wakes it
    this.#trace?.emit({ kind: 'device', device: this.#name, what: 'command', value: command });
    this.error = 0;
    const sectors = TRANSFERS.get(command);
    const spinning = POWER.get(command);
    if (sectors) this.#transferSectors(sectors);
    else if ((command & 0xf0) === 0x10)
      this.busy(() => this.finish()); // RECALIBRATE: back to cylinder 0
    else if ((command & 0xf0) === 0x70) this.#seek();
    else if (spinning !== undefined) this.#spin(spinning);
    else this.#other(command);
  }

  #abort(): void {
    this.busy(() => this.fail(ERROR.ABRT));
  }

  #other(command: number): void {
    switch (command) {
      case COMMAND.IDENTIFY:
        this.busy(() => this.offer(this.#identify(), () => this.rest()));
        break;
      case COMMAND.FLUSH:
      case COMMAND.FLUSH_EXT:
        this.busy(() => (this.#block.flush() ? this.finish() : this.fail(ERROR.ABRT, STATUS.DF)));
        break;
      case COMMAND.SET_FEATURES:
        this.#setFeatures();
        break;
      case COMMAND.SET_MULTIPLE:
        this.#setMultiple();
        break;
      case COMMAND.INITIALIZE_PARAMETERS:
        this.#initializeParameters();
        break;
      case COMMAND.READ_NATIVE_MAX:
        this.#nativeMax(28);
        break;
      case COMMAND.READ_NATIVE_MAX_EXT:
        this.#nativeMax(48);
        break;
      case COMMAND.CHECK_POWER:
      case COMMAND.CHECK_POWER_OLD:
        this.busy(() => {
          this.task.count = this.#spinning ? POWER_ACTIVE : 0;
          this.finish();
        });
        break;
      case COMMAND.SLEEP:
      case COMMAND.SLEEP_OLD:
        this.busy(() => {
          this.finish();
          this.#asleep = true;
        });
        break;
      default: // NOP too: it exists to be refused
        // @clause ata.command.unknown-aborts
        this.#abort();
    }
  }

  #identify(): Uint8Array {
    return identifyDisk({
      sectors: this.#block.sectors,
      serial: this.#serial,
      firmware: '1.0',
      model: this.#model,
      geometry: this.#geometry,
      current: this.#current,
      multiple: this.#multiple,
      transferMode: this.#transferMode,
      writeCache: this.#writeCache,
      isDevice1: this.#isDevice1,
    });
  }

  #seek(): void {
    const sector = this.#address(28);
    this.busy(() => (sector !== null && sector < this.#block.sectors ? this.finish() : this.fail(ERROR.IDNF)));
  }

  #spin(spinning: boolean): void {
    this.busy(() => {
      this.#spinning = spinning;
      // A drive about to stop writes what it still holds.
      if (spinning || this.#block.flush()) this.finish();
      else this.fail(ERROR.ABRT, STATUS.DF);
    });
  }

  // @clause ata.set-features
  #setFeatures(): void {
    const accepted = ((): boolean => {
      switch (this.task.features) {
        case FEATURE.WRITE_CACHE_ON:
        case FEATURE.WRITE_CACHE_OFF:
          this.#writeCache = this.task.features === FEATURE.WRITE_CACHE_ON;
          return this.#writeCache || this.#block.flush();
        case FEATURE.TRANSFER_MODE: {
          const mode = this.task.count;
          const limit = (TRANSFER_LIMIT as Readonly<Record<number, number>>)[mode & 0xf8];
          if (mode > 1 && (limit === undefined || (mode & 7) > limit)) return false; // 0 and 1: the default PIO mode
          if ((mode & 0xf8) >= 0x20) this.#transferMode = mode;
          return true;
        }
        case FEATURE.LOOK_AHEAD_ON:
        case FEATURE.LOOK_AHEAD_OFF:
        case FEATURE.KEEP_SETTINGS:
        case FEATURE.DEFAULTS:
          return true;
        default:
          return false;
      }
    })();
    this.busy(() => (accepted ? this.finish() : this.fail(ERROR.ABRT)));
  }

  #setMultiple(): void {
    const sectors = this.task.count;
    if (sectors > MULTIPLE_LIMIT || (sectors & (sectors - 1)) !== 0) {
      this.#abort();
      return;
    }
    this.#multiple = sectors;
    this.busy(() => this.finish());
  }

  #initializeParameters(): void {
    const sectorsPerTrack = this.task.count;
    const heads = (this.deviceHead & 0x0f) + 1;
    if (sectorsPerTrack === 0) {
      this.#abort();
      return;
    }
    const addressable = CHS_LIMIT.cylinders * CHS_LIMIT.heads * CHS_LIMIT.sectorsPerTrack;
    const cylinders = Math.min(65535, Math.floor(Math.min(this.#block.sectors, addressable) / (heads * sectorsPerTrack)));
    this.#current = { cylinders, heads, sectorsPerTrack };
    this.busy(() => this.finish());
  }

  #nativeMax(bits: 28 | 48): void {
    if (!(this.deviceHead & DEVICE.LBA)) {
      this.#abort();
      return;
    }
    const sectors = bits === 28 ? Math.min(this.#block.sectors, LBA28_LIMIT) : this.#block.sectors;
    this.busy(() => {
      this.#store(sectors - 1, bits);
      this.finish();
    });
  }

  // ## Runs of sectors

  #transferSectors({ name, write, by, bits }: Transfer): void {
    const start = this.#address(bits);
    const asked = bits === 48 ? this.previous.count * 256 + this.task.count : this.task.count;
    const count = asked === 0 ? (bits === 48 ? 65536 : 256) : asked;
    if ((by === 'multiple' && this.#multiple === 0) || (write && this.#block.readOnly) || (bits === 48 && start === null)) {
      this.#abort();
      return;
    }
    // @clause ata.address.outside
    if (start === null) {
      this.busy(() => this.fail(ERROR.IDNF));
      return;
    }
    if (start + count > this.#block.sectors) {
      this.busy(() => {
        this.#store(Math.max(start, this.#block.sectors), bits);
        this.fail(ERROR.IDNF);
      });
      return;
    }
    this.#spinning = true;
    this.#trace?.emit({ kind: 'device', device: this.#name, what: name, value: start });
    const run = { start, count, bits };
    if (by === 'verify') this.busy(() => this.#verify(run), count * SECTOR_NS);
    else if (by === 'dma') this.busy(() => this.requestDma(this.#dmaPhase(run, write)), count * SECTOR_NS);
    else this.#byPort(run, write, by === 'multiple' ? this.#multiple : 1);
  }

  #done(sector: number, bits: 28 | 48): void {
    this.#store(sector, bits);
    this.task.count = 0;
    this.#trace?.emit({ kind: 'device', device: this.#name, what: 'done', value: sector });
  }

  #verify({ start, count, bits }: Run): void {
    const bad = this.#unreadable(start, count);
    if (bad !== null) {
      this.#medium(bad, bits);
      return;
    }
    this.#done(start + count - 1, bits);
    this.finish();
  }

  /** The first sector of a run that cannot be read. */
  #unreadable(start: number, count: number): number | null {
    const sector = new Uint8Array(SECTOR_BYTES);
    for (let at = start; at < start + count; at++) if (!this.#block.read(at, sector)) return at;
    return null;
  }

  // @clause ata.error.medium
  /** An error of the medium, with the address of the sector that has it. */
  #medium(sector: number, bits: 28 | 48): void {
    this.#store(sector, bits);
    this.fail(ERROR.UNC);
  }

  #load(sector: number, into: Uint8Array, bits: 28 | 48): boolean {
    if (this.#block.read(sector, into)) return true;
    this.#medium(this.#unreadable(sector, into.length / SECTOR_BYTES) ?? sector, bits);
    return false;
  }

  /** With the write cache off, written means durable. */
  #save(sector: number, from: Uint8Array, bits: 28 | 48): boolean {
    if (this.#block.write(sector, from) && (this.#writeCache || this.#block.flush())) return true;
    this.#store(sector, bits);
    this.fail(ERROR.ABRT, STATUS.DF);
    return false;
  }

  // By the port, a command is a dialogue. Reading: busy, interrupt, the driver fetches a block, busy again. Writing: the driver brings a block, busy,
  // interrupt. Either way as many interrupts as blocks; and each sector costs a driver {{SECTOR_BYTES / 2}} port reads, or one string instruction.

  // @clause ata.pio.interrupt-per-block
  #byPort(run: Run, write: boolean, blockSectors: number): void {
    const { bits } = run;
    const end = run.start + run.count;
    const read = (at: number): void => {
      const sectors = Math.min(blockSectors, end - at);
      this.busy(() => {
        const block = new Uint8Array(sectors * SECTOR_BYTES);
        if (!this.#load(at, block, bits)) return;
        this.offer(block, () => {
          if (at + sectors < end) {
            read(at + sectors);
            return;
          }
          this.#done(end - 1, bits);
          this.rest();
        });
      }, sectors * SECTOR_NS);
    };
    const take = (at: number): void => {
      const sectors = Math.min(blockSectors, end - at);
      const block = new Uint8Array(sectors * SECTOR_BYTES);
      const store = (): void => {
        if (!this.#save(at, block, bits)) return;
        if (at + sectors < end) {
          take(at + sectors);
          return;
        }
        this.#done(end - 1, bits);
        this.finish();
      };
      this.ask(block, () => this.busy(store, sectors * SECTOR_NS), { interrupt: at !== run.start });
    };
    if (write) this.busy(() => take(run.start));
    else read(run.start);
  }

  // By the bus master, a command is one conversation with one interrupt, whatever its length.

  #dmaPhase(run: Run, write: boolean): DmaPhase {
    const { start, bits } = run;
    const total = run.count * SECTOR_BYTES;
    let moved = 0;
    let chunk = new Uint8Array(0);
    let at = 0; // position in the chunk
    const refill = (): void => {
      chunk = new Uint8Array(Math.min(total - moved, DMA_CHUNK_SECTORS * SECTOR_BYTES));
      at = 0;
    };
    return {
      toMemory: !write,
      get remaining() {
        return total - moved;
      },
      take: (bytes) => {
        if (at === chunk.length) {
          refill();
          if (!this.#load(start + moved / SECTOR_BYTES, chunk, bits)) return null;
        }
        const piece = chunk.subarray(at, at + bytes);
        at += piece.length;
        moved += piece.length;
        return piece;
      },
      put: (bytes) => {
        for (let done = 0; done < bytes.length; ) {
          if (at === chunk.length) refill();
          const piece = bytes.subarray(done, done + chunk.length - at);
          chunk.set(piece, at);
          at += piece.length;
          done += piece.length;
          moved += piece.length;
          if (at === chunk.length && !this.#save(start + (moved - chunk.length) / SECTOR_BYTES, chunk, bits)) return false;
        }
        return true;
      },
      end: () => {
        this.#done(start + run.count - 1, bits);
        this.finish();
      },
    };
  }

  // ## State

  static readonly STATE_OF_DISK = describe<AtaDisk>('ATA disk', 1, {
    device: part<AtaDisk, AtaDevice>((disk) => disk, AtaDevice.STATE),
    geometry: field(
      kind.record<Geometry>({ cylinders: kind.u16, heads: kind.between(1, 16), sectorsPerTrack: kind.between(1, 255) }),
      (disk) => disk.#current,
      (disk, current) => {
        disk.#current = current;
      },
    ),
    settings: field(
      kind.record({ multiple: kind.upTo(MULTIPLE_LIMIT), transferMode: kind.u8, writeCache: kind.flag, spinning: kind.flag, asleep: kind.flag }),
      (d) => ({ multiple: d.#multiple, transferMode: d.#transferMode, writeCache: d.#writeCache, spinning: d.#spinning, asleep: d.#asleep }),
      (d, v) => {
        ({ multiple: d.#multiple, transferMode: d.#transferMode, writeCache: d.#writeCache, spinning: d.#spinning, asleep: d.#asleep } = v);
      },
    ),
  });

  override savedPart(name: string): SavedPart {
    return savedPart<AtaDisk>(name, this, AtaDisk.STATE_OF_DISK);
  }
}

/** A checked run of sectors, and how it was addressed. */
interface Run {
  readonly start: number;
  readonly count: number;
  readonly bits: 28 | 48;
}

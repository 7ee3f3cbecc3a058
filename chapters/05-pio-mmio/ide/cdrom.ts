// # A CD-ROM on a disk's cable
//
// When CD-ROM drives came to the PC, their commands were SCSI's and the cable was ATA's. *ATAPI* is the marriage: one ATA command, PACKET, asks for
// twelve bytes, and those are a SCSI command. The answer comes in blocks of a size that the host limits, each announced with an interrupt and its
// length in the two middle registers.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Clock } from '../../02-kvm-objects/clock.ts';
import { describe, field, kind, part, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import { type BlockBackend, SECTOR_BYTES } from '../block/block.ts';
import { AtaDevice } from './device.ts';
import { storeString } from './identify.ts';
import { ERROR, SECTOR_NS } from './task-file.ts';

const FRAME_BYTES = 2048;
const PER_FRAME = FRAME_BYTES / SECTOR_BYTES;
const PACKET_BYTES = 12;
/** The most that one command returns: a READ(10) of 65,535 frames is asked for in pieces of this. */
const CHUNK_FRAMES = 32;

const COMMAND = { DEVICE_RESET: 0x08, PACKET: 0xa0, IDENTIFY_PACKET: 0xa1, FLUSH: 0xe7, SET_FEATURES: 0xef } as const;
const FEATURE_DMA = 1;
/** Interrupt reason, in the count register: a command packet, data to the host, or the end. */
const REASON = { PACKET: 1, TO_HOST: 2, END: 3 } as const;

// biome-ignore format: table
const SCSI = {
  TEST_UNIT_READY: 0x00, REQUEST_SENSE: 0x03, INQUIRY: 0x12, START_STOP: 0x1b, PREVENT_ALLOW: 0x1e, READ_CAPACITY: 0x25, READ_10: 0x28,
  READ_TOC: 0x43, GET_CONFIGURATION: 0x46, GET_EVENT: 0x4a, MODE_SENSE_10: 0x5a, READ_12: 0xa8,
} as const;
/** Sense key, and additional sense code. */
const SENSE = {
  NONE: [0, 0],
  NO_MEDIUM: [2, 0x3a],
  MEDIUM: [3, 0x11],
  BAD_COMMAND: [5, 0x20],
  BEYOND_END: [5, 0x21],
  BAD_FIELD: [5, 0x24],
} as const satisfies Record<string, readonly [number, number]>;
type Sense = readonly [number, number];

const be32 = (bytes: Uint8Array, at: number): number => new DataView(bytes.buffer, bytes.byteOffset).getUint32(at);
const be16 = (bytes: Uint8Array, at: number): number => new DataView(bytes.buffer, bytes.byteOffset).getUint16(at);
function ascii(into: Uint8Array, at: number, length: number, text: string): void {
  for (let index = 0; index < length; index++) into[at + index] = text.padEnd(length).charCodeAt(index);
}

interface CdromOptions {
  readonly clock: Clock;
  /** The disc; null is an empty drive. */
  readonly block: BlockBackend | null;
  readonly name?: string;
  readonly trace?: Trace | null;
}

export class AtapiCdrom extends AtaDevice {
  readonly #block: BlockBackend | null;
  readonly #name: string;
  readonly #trace: Trace | null;
  #sense: Sense = SENSE.NONE;
  #dmaAsked = false;

  constructor({ clock, block, name = 'cdrom', trace = null }: CdromOptions) {
    super(clock);
    this.#block = block;
    this.#name = name;
    this.#trace = trace;
  }

  override get packet(): boolean {
    return true;
  }

  // @clause atapi.signature
  protected signature(): void {
    Object.assign(this.task, { features: 0, count: 1, low: 1, mid: 0x14, high: 0xeb });
    Object.assign(this.previous, { features: 0, count: 0, low: 0, mid: 0, high: 0 });
    this.deviceHead = 0;
    this.error = 1;
    this.status = 0; // not ready: so a driver that knows disks only leaves it alone
  }

  protected forget(): void {
    this.#sense = SENSE.NONE;
  }

  get #frames(): number {
    return Math.floor((this.#block?.sectors ?? 0) / PER_FRAME);
  }

  execute(command: number): void {
    this.#trace?.emit({ kind: 'device', device: this.#name, what: 'command', value: command });
    this.error = 0;
    switch (command) {
      case COMMAND.PACKET:
        this.#dmaAsked = (this.task.features & FEATURE_DMA) !== 0;
        this.busy(() => {
          const packet = new Uint8Array(PACKET_BYTES);
          this.task.count = REASON.PACKET;
          this.ask(packet, () => this.#packet(packet), { interrupt: false });
        });
        break;
      case COMMAND.IDENTIFY_PACKET:
        this.busy(() => this.offer(this.#identify(), () => this.rest()));
        break;
      case COMMAND.DEVICE_RESET:
        this.hardReset();
        break;
      case COMMAND.SET_FEATURES:
      case COMMAND.FLUSH:
        this.busy(() => this.finish());
        break;
      default:
        // IDENTIFY DEVICE and READ SECTORS too: they fail with the signature in the registers, which is how drivers tell.
        this.busy(() => {
          this.signature();
          this.fail(ERROR.ABRT);
        });
    }
  }

  #identify(): Uint8Array {
    const words = new Uint16Array(256);
    words[0] = 0x8580; // ATAPI, CD-ROM, removable, packets of 12 bytes
    storeString(words, 10, 10, 'RBCD0001');
    storeString(words, 23, 4, '1.0');
    storeString(words, 27, 20, 'RINGBOOK CD-ROM');
    words[49] = 0x0b00;
    words[53] = 0x0006;
    words[63] = 0x0007;
    words[64] = 0x0003;
    words[65] = words[66] = words[67] = words[68] = 120;
    words[80] = 0x0070;
    words[82] = 0x4010; // PACKET, NOP
    words[83] = words[84] = words[87] = 0x4000;
    words[85] = 0x4010;
    words[88] = 0x003f;
    return new Uint8Array(words.buffer);
  }

  // ## The SCSI commands

  #packet(packet: Uint8Array): void {
    this.#trace?.emit({ kind: 'device', device: this.#name, what: 'packet', value: packet[0] as number });
    this.busy(() => this.#scsi(packet));
  }

  // @clause atapi.check-condition
  #check(sense: Sense): void {
    this.#sense = sense;
    this.task.count = REASON.END;
    this.fail((sense[0] << 4) | (sense[0] === 5 ? ERROR.ABRT : 0));
  }

  #good(): void {
    this.#sense = SENSE.NONE;
    this.task.count = REASON.END;
    this.finish();
  }

  #scsi(packet: Uint8Array): void {
    const operation = packet[0] as number;
    const needsMedium: readonly number[] = [SCSI.TEST_UNIT_READY, SCSI.READ_CAPACITY, SCSI.READ_10, SCSI.READ_12, SCSI.READ_TOC];
    if (!this.#block && needsMedium.includes(operation)) {
      this.#check(SENSE.NO_MEDIUM);
      return;
    }
    switch (operation) {
      case SCSI.TEST_UNIT_READY:
      case SCSI.START_STOP:
      case SCSI.PREVENT_ALLOW:
        this.#good();
        break;
      case SCSI.REQUEST_SENSE: {
        const answer = new Uint8Array(18);
        answer.set([0x70, 0, this.#sense[0], 0, 0, 0, 0, 10]);
        answer[12] = this.#sense[1];
        this.#give(answer.subarray(0, packet[4] as number));
        break;
      }
      case SCSI.INQUIRY: {
        const answer = new Uint8Array(36);
        answer.set([0x05, 0x80, 0x00, 0x21, 31]); // CD-ROM, removable
        ascii(answer, 8, 8, 'RINGBOOK');
        ascii(answer, 16, 16, 'CD-ROM');
        ascii(answer, 32, 4, '1.0');
        this.#give(answer.subarray(0, packet[4] as number));
        break;
      }
      case SCSI.READ_CAPACITY: {
        const answer = new Uint8Array(8);
        const view = new DataView(answer.buffer);
        view.setUint32(0, Math.max(0, this.#frames - 1));
        view.setUint32(4, FRAME_BYTES);
        this.#give(answer);
        break;
      }
      case SCSI.READ_10:
        this.#read(be32(packet, 2), be16(packet, 7));
        break;
      case SCSI.READ_12:
        this.#read(be32(packet, 2), be32(packet, 6));
        break;
      case SCSI.READ_TOC:
        this.#toc(packet);
        break;
      case SCSI.MODE_SENSE_10: {
        // The header and the page of capabilities; nothing in it but that discs can be read.
        const page = new Uint8Array(8 + 20);
        page.set([0, 26, 0x01]);
        page.set([0x2a, 18, 0x00, 0x00, 0x71, 0x60, 0x29], 8);
        if (((packet[2] as number) & 0x3f) === 0x2a || ((packet[2] as number) & 0x3f) === 0x3f) this.#give(page.subarray(0, be16(packet, 7)));
        else this.#check(SENSE.BAD_FIELD);
        break;
      }
      case SCSI.GET_CONFIGURATION: {
        const answer = new Uint8Array(8);
        answer.set([0, 0, 0, 4, 0, 0, 0, this.#block ? 0x08 : 0]); // current profile: CD-ROM
        this.#give(answer.subarray(0, be16(packet, 7)));
        break;
      }
      case SCSI.GET_EVENT: {
        if (!((packet[1] as number) & 1)) {
          this.#check(SENSE.BAD_FIELD); // only polling
          break;
        }
        this.#give(Uint8Array.of(0, 6, 4, 0x10, 0, this.#block ? 2 : 0, 0, 0).subarray(0, be16(packet, 7)));
        break;
      }
      default:
        this.#check(SENSE.BAD_COMMAND);
    }
  }

  /** One track, from the first frame to the last. */
  #toc(packet: Uint8Array): void {
    const minutes = ((packet[1] as number) & 2) !== 0;
    const format = (packet[2] as number) & 0xf || (packet[9] as number) >> 6;
    const address = (frame: number): number[] => {
      if (!minutes) return [frame >>> 24, frame >>> 16, frame >>> 8, frame].map((byte) => byte & 0xff);
      const at = frame + 150; // the first two seconds of a disc are its lead-in
      return [0, Math.floor(at / 4500), Math.floor(at / 75) % 60, at % 75];
    };
    const answer =
      format === 0
        ? [0, 18, 1, 1, 0, 0x14, 1, 0, ...address(0), 0, 0x16, 0xaa, 0, ...address(this.#frames)]
        : format === 1
          ? [0, 10, 1, 1, 0, 0x14, 1, 0, ...address(0)]
          : null;
    if (answer) this.#give(Uint8Array.from(answer).subarray(0, be16(packet, 7)));
    else this.#check(SENSE.BAD_FIELD);
  }

  #read(frame: number, count: number): void {
    if (frame + count > this.#frames) {
      this.#check(SENSE.BEYOND_END);
      return;
    }
    this.#stream(count * FRAME_BYTES, (at, into) => this.#block?.read((frame * FRAME_BYTES + at) / SECTOR_BYTES, into) ?? false);
  }

  #give(answer: Uint8Array): void {
    this.#stream(answer.length, (at, into) => {
      into.set(answer.subarray(at, at + into.length));
      return true;
    });
  }

  // ## Out through the cable
  //
  // By the port, in blocks no larger than the host allows, each with its length in the registers and an interrupt; then one more interrupt with the
  // status. By the bus master, all at once. Both take chunks of whole frames from `load`, so that no command holds more memory than a chunk.

  // @clause atapi.byte-count
  #stream(total: number, load: (at: number, into: Uint8Array) => boolean): void {
    if (total === 0) {
      this.#good();
      return;
    }
    let chunk = new Uint8Array(0);
    let chunkAt = 0;
    let moved = 0;
    /** The next bytes, at most `bytes`; null after an error of the medium. */
    const next = (bytes: number): Uint8Array | null => {
      if (moved === chunkAt + chunk.length) {
        chunkAt = moved;
        chunk = new Uint8Array(Math.min(total - moved, CHUNK_FRAMES * FRAME_BYTES));
        if (!load(chunkAt, chunk)) {
          this.#check(SENSE.MEDIUM);
          return null;
        }
      }
      const piece = chunk.subarray(moved - chunkAt, moved - chunkAt + bytes);
      moved += piece.length;
      return piece;
    };
    if (this.#dmaAsked) {
      const phase = {
        toMemory: true,
        get remaining() {
          return total - moved;
        },
        take: next,
        put: () => false,
        end: () => this.#good(),
      };
      this.busy(() => this.requestDma(phase), (total / SECTOR_BYTES) * SECTOR_NS);
      return;
    }
    const asked = this.task.mid | (this.task.high << 8);
    const limit = asked === 0 || asked === 0xffff ? 0xfffe : Math.max(2, asked & ~1);
    const block = (): void => {
      const piece = next(Math.min(limit, total - moved));
      if (!piece) return;
      Object.assign(this.task, { count: REASON.TO_HOST, mid: piece.length & 0xff, high: piece.length >> 8 });
      this.offer(piece, () => this.busy(moved < total ? block : () => this.#good(), SECTOR_NS));
    };
    this.busy(block, SECTOR_NS);
  }

  // ## State

  static readonly STATE_OF_CDROM = describe<AtapiCdrom>('ATAPI CD-ROM', 1, {
    device: part<AtapiCdrom, AtaDevice>((drive) => drive, AtaDevice.STATE),
    packet: field(
      kind.record({ key: kind.u8, code: kind.u8, dmaAsked: kind.flag }),
      (drive) => ({ key: drive.#sense[0], code: drive.#sense[1], dmaAsked: drive.#dmaAsked }),
      (drive, { key, code, dmaAsked }) => {
        drive.#sense = [key, code];
        drive.#dmaAsked = dmaAsked;
      },
    ),
  });

  override savedPart(name: string): SavedPart {
    return savedPart<AtapiCdrom>(name, this, AtapiCdrom.STATE_OF_CDROM);
  }
}

// # A driver of a disk
//
// A request is a header that the device reads, data in one direction or the other, and one byte of status that the device writes last. The driver
// keeps a number of such header-and-status pairs, and each that is free is a request that can be under way. What comes back names its pair, and the
// pair remembers who asked.

import { ERRNO, Errno } from '../../../02-kvm-objects/errno.ts';
import { SECTOR_BYTES } from '../../../05-pio-mmio/block/block.ts';
import { BLK_F, BLK_S, BLK_T, BLK_Z, BlkConfig, BlkOutHdr, BlkRange, ID_BYTES, UNMAP } from '../../devices/block-layout.ts';
import { DEVICE_ID } from '../../features.ts';
import { type DmaBuffer, slice } from '../bus.ts';
import type { DeviceHandle } from '../virtio-device.ts';
import type { VirtioDriver } from '../virtio-driver.ts';
import type { Virtqueue } from '../virtqueue.ts';

/** A range of sectors. */
export interface SectorRange {
  readonly sector: number;
  readonly sectors: number;
}

/** A header and a status, for one request at a time. */
interface Slot {
  readonly header: DmaBuffer;
  readonly status: DmaBuffer;
  readonly sgs: DmaBuffer[];
  done: ((status: number, len: number) => void) | null;
}

const SLOTS = 32;
const HEADER_BYTES = BlkOutHdr.bytes;
/** What a driver finds in the status byte if the device has written none. */
const NO_STATUS = 0xff;
/** Data of a request that waits for its answer: at most so much is copied at a time. */
const COPY_BYTES = 1 << 16;

/** A request that could not even be asked: the device is lost, or has no room, or was asked for what it does not have. */
export type BlockResult = number | 'lost' | 'busy';

export class BlockDisk {
  readonly #device: DeviceHandle;
  readonly #queue: Virtqueue<Slot>;
  readonly #free: Slot[] = [];
  readonly #copy: DmaBuffer;
  readonly #segMax: number;
  #capacity = 0;
  readonly readOnly: boolean;
  readonly blockBytes: number;

  /** @throws Errno */
  constructor(device: DeviceHandle) {
    this.#device = device;
    // Interrupts are for those who wait in the background; with none, the driver looks for itself.
    const [queue] = device.findVqs<Slot>([{ name: 'requests', size: 128, callback: () => this.#reap() }]);
    this.#queue = queue as Virtqueue<Slot>;
    const { dma } = device;
    const memory = dma.allocate(SLOTS * (HEADER_BYTES + 16), 16);
    this.#copy = dma.allocate(COPY_BYTES, SECTOR_BYTES);
    for (let at = 0; at < SLOTS; at++) {
      const from = at * (HEADER_BYTES + 16);
      const header = slice(memory, from, from + HEADER_BYTES);
      this.#free.push({ header, status: slice(memory, from + HEADER_BYTES, from + HEADER_BYTES + 1), sgs: [], done: null });
    }
    // @clause virtio.blk.dri.ro-feature-accepted-offered
    this.readOnly = device.has(BLK_F.RO);
    // @clause virtio.config.dri.conditional-config-fields-touched-only
    this.blockBytes = device.has(BLK_F.BLK_SIZE) ? device.readConfig(BlkConfig, 'blk_size').blk_size : SECTOR_BYTES;
    const most = this.#queue.size - 2;
    this.#segMax = Math.max(1, device.has(BLK_F.SEG_MAX) ? Math.min(device.readConfig(BlkConfig, 'seg_max').seg_max, most) : most);
    this.reread();
  }

  /** In sectors. */
  get capacity(): number {
    return this.#capacity;
  }
  /** Pieces of data in one request. */
  get segMax(): number {
    return this.#segMax;
  }
  get isLost(): boolean {
    return this.#queue.isBroken || this.#device.failure !== null;
  }

  // @clause virtio.blk.dri.capacity-re-checked-after-config
  reread(): void {
    const { capacity } = this.#device.readConfig(BlkConfig, 'capacity');
    this.#capacity = Math.min(Number(capacity), Number.MAX_SAFE_INTEGER);
  }

  // ## Asking
  //
  // The header goes first, the status last. Data goes between them, on the side of whoever reads it.

  /**
   * Asks, and lets `done` know. Of `data` the first `outData` pieces are read by the device, the others written.
   * @throws Errno EINVAL for a request that the specification forbids
   */
  submit(
    type: number,
    sector: number,
    data: readonly DmaBuffer[],
    outData: number,
    done: (status: number, len: number) => void,
  ): 'asked' | 'lost' | 'busy' {
    this.#check(type, sector, data);
    if (this.isLost) return 'lost';
    const slot = this.#free.pop();
    if (!slot) return 'busy';
    const { header, status, sgs } = slot;
    BlkOutHdr.store(new DataView(header.bytes.buffer, header.bytes.byteOffset), 0, { type, reserved: 0, sector: BigInt(sector) });
    status.bytes[0] = NO_STATUS;
    sgs.length = 0;
    sgs.push(header, ...data, status);
    slot.done = done;
    const result = this.#queue.addSgs(sgs, 1 + outData, sgs.length - 1 - outData, slot);
    if (result !== 0) {
      this.#free.push(slot);
      return result === -ERRNO.EIO ? 'lost' : 'busy';
    }
    this.#queue.kick();
    return 'asked';
  }

  #check(type: number, sector: number, data: readonly DmaBuffer[]): void {
    const bytes = data.reduce((sum, { bytes }) => sum + bytes.length, 0);
    const refuse = (why: string): never => {
      throw new Errno('block', ERRNO.EINVAL, why);
    };
    if (data.length > this.#segMax) refuse(`${data.length} pieces of at most ${this.#segMax}`);
    if (type === BLK_T.IN || type === BLK_T.OUT) {
      // @clause virtio.blk.dri.out-data-length-multiple-512
      if (bytes === 0 || bytes % SECTOR_BYTES !== 0) refuse(`${bytes} bytes are not whole sectors`);
      // @clause virtio.blk.dri.requests-stay-within-capacity
      if (!(Number.isSafeInteger(sector) && sector >= 0 && sector + bytes / SECTOR_BYTES <= this.#capacity))
        refuse(`sector ${sector} of ${this.#capacity}`);
    }
    // @clause virtio.blk.dri.flush-request-sector-0
    // @clause virtio.blk.dri.flush-request-carries-no-data
    if (type === BLK_T.FLUSH && (sector !== 0 || bytes !== 0)) refuse('a flush has no sector and no data');
    // @clause virtio.blk.dri.get-id-buffer-20-bytes
    if (type === BLK_T.GET_ID && bytes !== ID_BYTES) refuse(`an id in ${bytes} bytes`);
    // @clause virtio.blk.dri.discard-secure-erase-write-zeroes
    if ([BLK_T.DISCARD, BLK_T.WRITE_ZEROES, BLK_T.SECURE_ERASE].includes(type as 11) && (bytes === 0 || bytes % BlkRange.bytes !== 0))
      refuse(`${bytes} bytes are not whole ranges`);
  }

  /** Takes what has come back. A device that gives a request back without a status has not done it. */
  #reap(): void {
    this.#queue.reap((slot, len) => {
      const { done, status } = slot;
      slot.done = null;
      this.#free.push(slot);
      done?.(status.bytes[0] === NO_STATUS ? BLK_S.IOERR : (status.bytes[0] as number), len);
    });
  }

  /** Asks and waits. */
  request(type: number, sector: number, data: readonly DmaBuffer[], direction: 'to device' | 'from device'): BlockResult {
    return this.#ask(type, sector, data, direction === 'to device' ? data.length : 0);
  }

  /** A ZONE_APPEND: `data` goes, and the place it went to comes back in `answer`. */
  appendTo(sector: number, data: DmaBuffer, answer: DmaBuffer): BlockResult {
    return this.#ask(BLK_T.ZONE_APPEND, sector, [data, answer], 1);
  }

  #ask(type: number, sector: number, data: readonly DmaBuffer[], outData: number): BlockResult {
    let answer: number | null = null;
    const asked = this.submit(type, sector, data, outData, (status) => {
      answer = status;
    });
    if (asked !== 'asked') return asked;
    while (answer === null) {
      // It may still write into the buffers, so they must not be used for anything else, nor may the device.
      if (!this.#device.waitUsed(this.#queue, () => answer !== null)) {
        this.#device.breakDevice('a request was not answered');
        return 'lost';
      }
      this.#reap();
    }
    return answer;
  }

  // ## The usual requests

  /** Reads whole sectors into memory of the driver's own. */
  read(sector: number, into: Uint8Array): BlockResult {
    return this.#inPieces(sector, into.length, (at, buffer) => {
      const result = this.request(BLK_T.IN, sector + at / SECTOR_BYTES, [buffer], 'from device');
      if (result === BLK_S.OK) into.set(buffer.bytes, at);
      return result;
    });
  }

  write(sector: number, from: Uint8Array): BlockResult {
    return this.#inPieces(sector, from.length, (at, buffer) => {
      buffer.bytes.set(from.subarray(at, at + buffer.bytes.length));
      return this.request(BLK_T.OUT, sector + at / SECTOR_BYTES, [buffer], 'to device');
    });
  }

  #inPieces(sector: number, bytes: number, each: (at: number, buffer: DmaBuffer) => BlockResult): BlockResult {
    if (bytes === 0 || bytes % SECTOR_BYTES !== 0) throw new Errno('block', ERRNO.EINVAL, `${bytes} bytes at ${sector}`);
    for (let at = 0; at < bytes; at += COPY_BYTES) {
      const result = each(at, slice(this.#copy, 0, Math.min(COPY_BYTES, bytes - at)));
      if (result !== BLK_S.OK) return result;
    }
    return BLK_S.OK;
  }

  /** Makes what was written durable. Without FLUSH the device has no cache that could be lost. */
  flush(): BlockResult {
    // @clause virtio.blk.dri.flush-negotiated-only-if-driver
    // @clause virtio.blk.dri.flush-without-config-wce-writeback
    // @clause virtio.blk.dri.neither-config-wce-nor-flush
    return this.#device.has(BLK_F.FLUSH) ? this.request(BLK_T.FLUSH, 0, [], 'to device') : BLK_S.OK;
  }

  /** Whether writes may be lost before a flush; switching is for devices with CONFIG_WCE. What was written before is not made durable by it: the driver flushes. */
  get writeback(): boolean {
    // @clause virtio.blk.dri.writeback-field-unread-before-features
    if (this.#device.has(BLK_F.CONFIG_WCE)) return this.#device.readConfig(BlkConfig, 'writeback').writeback === 1;
    return this.#device.has(BLK_F.FLUSH);
  }
  set writeback(on: boolean) {
    if (!this.#device.has(BLK_F.CONFIG_WCE)) throw new Errno('writeback', ERRNO.EOPNOTSUPP);
    // @clause virtio.blk.dri.config-wce-cache-mode-switched
    // @clause virtio.blk.dri.writeback-0-not-imply-earlier
    this.#device.writeConfig(BlkConfig, 'writeback', on ? 1 : 0);
    if (!on) this.flush();
  }

  /** The disk's name for itself; '' when it has none. */
  get id(): string {
    const into = slice(this.#copy, 0, ID_BYTES);
    into.bytes.fill(0);
    if (this.request(BLK_T.GET_ID, 0, [into], 'from device') !== BLK_S.OK) return '';
    const end = into.bytes.indexOf(0);
    return String.fromCharCode(...into.bytes.subarray(0, end < 0 ? ID_BYTES : end));
  }

  // What a discarded sector reads as afterwards nobody has promised. And when one of several ranges fails, nobody says which: the answer is one byte.
  // @clause virtio.blk.dri.read-contents-discarded-sectors-unspecified
  // @clause virtio.blk.dri.ioerr-multi-segment-discard-zeroes

  /** These sectors are not needed any more. @throws Errno EOPNOTSUPP, EINVAL for more than the device takes */
  discard(ranges: readonly SectorRange[]): BlockResult {
    // @clause virtio.blk.dri.discard-unmap-clear
    return this.#ranges(BLK_T.DISCARD, BLK_F.DISCARD, 'max_discard_seg', 'max_discard_sectors', ranges, 0);
  }

  /** These sectors shall read as zeros; `unmap`: and need not be kept for that. */
  writeZeroes(ranges: readonly SectorRange[], { unmap = false }: { readonly unmap?: boolean } = {}): BlockResult {
    return this.#ranges(BLK_T.WRITE_ZEROES, BLK_F.WRITE_ZEROES, 'max_write_zeroes_seg', 'max_write_zeroes_sectors', ranges, unmap ? UNMAP : 0);
  }

  /** These sectors shall be unreadable for ever. */
  secureErase(ranges: readonly SectorRange[]): BlockResult {
    return this.#ranges(BLK_T.SECURE_ERASE, BLK_F.SECURE_ERASE, 'max_secure_erase_seg', 'max_secure_erase_sectors', ranges, 0);
  }

  #ranges(
    type: number,
    feature: number,
    most: 'max_discard_seg' | 'max_write_zeroes_seg' | 'max_secure_erase_seg',
    longest: 'max_discard_sectors' | 'max_write_zeroes_sectors' | 'max_secure_erase_sectors',
    ranges: readonly SectorRange[],
    flags: number,
  ): BlockResult {
    if (!this.#device.has(feature)) throw new Errno('block', ERRNO.EOPNOTSUPP, `request ${type}`);
    const limits = this.#device.readConfig(BlkConfig, most, longest);
    // @clause virtio.blk.dri.discard-most-max-discard-seg
    // @clause virtio.blk.dri.secure-erase-most-max-secure
    // @clause virtio.blk.dri.write-zeroes-most-max-write
    if (ranges.length === 0 || ranges.length > limits[most] || ranges.length * BlkRange.bytes > COPY_BYTES)
      throw new Errno('block', ERRNO.EINVAL, `${ranges.length} ranges of at most ${limits[most]}`);
    const into = slice(this.#copy, 0, ranges.length * BlkRange.bytes);
    const view = new DataView(into.bytes.buffer, into.bytes.byteOffset);
    for (const [index, { sector, sectors }] of ranges.entries()) {
      if (!(sectors > 0 && sectors <= limits[longest] && sector >= 0 && sector + sectors <= this.#capacity))
        throw new Errno('block', ERRNO.EINVAL, `${sectors} sectors at ${sector}`);
      BlkRange.store(view, index * BlkRange.bytes, { sector: BigInt(sector), num_sectors: sectors, flags });
    }
    return this.request(type, 0, [into], 'to device');
  }

  /** Whoever still waits is told that it will not come. */
  remove(): void {
    for (let slot = this.#queue.detachUnusedBuf(); slot; slot = this.#queue.detachUnusedBuf()) slot.done?.(BLK_S.IOERR, 0);
  }
}

// ## Zones
//
// A driver may treat a disk as one on which everything can be written everywhere. Of the zoned kinds a host-aware disk allows that; a host-managed
// one does not, and a driver that does not know how to write to it must leave it alone. Whoever uses this one says which it is.

const { model } = BlkConfig.fields.zoned.of.fields;
const MODEL_AT = BlkConfig.fields.zoned.offset + model.offset;

interface BlockDriverOptions {
  /** Whoever gets the disk writes to zones as they have to be written. */
  readonly zones?: boolean;
}

/** The driver; `found` gets each disk that works. */
export const blockDriver = (found: (disk: BlockDisk, device: DeviceHandle) => void, { zones = false }: BlockDriverOptions = {}): VirtioDriver => ({
  name: 'virtio_blk',
  idTable: [{ device: DEVICE_ID.BLOCK }],
  // biome-ignore format: table
  featureTable: [
    BLK_F.SEG_MAX, BLK_F.RO, BLK_F.BLK_SIZE, BLK_F.FLUSH, BLK_F.CONFIG_WCE, BLK_F.DISCARD, BLK_F.WRITE_ZEROES, BLK_F.SECURE_ERASE, BLK_F.ZONED,
  ],
  featureTableLegacy: [BLK_F.SEG_MAX, BLK_F.RO, BLK_F.BLK_SIZE, BLK_F.FLUSH],
  validate(device) {
    if (!device.has(BLK_F.ZONED)) return null;
    // @clause virtio.blk.dri.zoned-negotiated-only-if-hm
    // @clause virtio.blk.dri.hm-model-unsupported-driver-failed
    // @clause virtio.blk.dri.ha-model-zone-unaware-driver
    // @clause virtio.blk.dri.zone-unaware-driver-disregards-other
    // @clause virtio.blk.dri.ha-none-model-zoned-discard
    const kind = device.transport.readConfig(MODEL_AT, 1);
    if (kind === BLK_Z.NONE || kind === BLK_Z.HA) return null;
    if (kind !== BLK_Z.HM || !zones) return 'a disk whose zones nobody here manages';
    // @clause virtio.blk.dri.host-managed-device-discard-not
    device.features &= ~(1n << BigInt(BLK_F.DISCARD));
    return null;
  },
  probe(device) {
    device.private = new BlockDisk(device);
  },
  scan: (device) => found(device.private as BlockDisk, device),
  configChanged: (device) => (device.private as BlockDisk).reread(),
  remove: (device) => (device.private as BlockDisk).remove(),
});

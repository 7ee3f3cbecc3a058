// # The block device
//
// A disk is the simplest device that is useful. It has no connection to set up and nothing arrives that was not asked for: a driver says which sectors, gives a
// buffer, and gets an answer. Where the disk controllers of the last chapter have a task file, a command list or a table of physical regions, a virtio disk has
// the ring that every virtio device has, and sixteen bytes in front of the data. One kick, any number of requests, answers in any order.
//
// ## A cache that loses power
//
// What makes a disk difficult is that it lies about being done. A write that is answered may still be in a cache, and a cache forgets when the power fails. So
// there are two kinds of *done*, and a driver must know which one it gets. With a *write-back* cache an answered write is only *volatile*; FLUSH makes everything
// that was answered before it *stable*. With a *write-through* cache the answer itself means stable. A driver that has taken FLUSH promises to use it, and gets
// write-back. One that has not could never make anything stable, so it gets write-through. And with CONFIG_WCE it may choose, by one byte of the configuration
// space.

import type { Timer } from '../../02-kvm-objects/clock.ts';
import { describe, field, kind, type SavedPart, savedPart, timer, unsavedPart } from '../../03-vcpu-loop/devices/state.ts';
import { type BlockBackend, SECTOR_BYTES, withinDisk } from '../../05-pio-mmio/block/block.ts';
import type { ConfigFields, DeviceModel, VirtioDevice } from '../device.ts';
import { bit, DEVICE_ID, has, STATUS } from '../features.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { BlockConfig, type BlockOptions, type BlockShape, shapeOf } from './block-config.ts';
import { type Pieces, type Steps, transfer } from './block-data.ts';
import { BLK_F, BLK_S, BLK_T, BLK_Z, BlkAppendSector, BlkLifetime, BlkZone, BlkZoneReport } from './block-layout.ts';
import { performRanges, type RangeKind } from './block-ranges.ts';
import { BlockRequest } from './block-request.ts';
import { type BlockStatus, Zones } from './zoned.ts';

export { BLOCK_DEFAULTS, type BlockOptions } from './block-config.ts';

interface InFlight {
  readonly request: BlockRequest;
  readonly queue: VirtQueue;
  readonly due: number;
  /** What is left to do, once it is begun. */
  steps: Steps<number> | null;
}

/** How much is moved before somebody else's turn. */
const TURN_BYTES = 1 << 24;

export class BlockModel implements DeviceModel {
  readonly name: string;
  readonly deviceId = DEVICE_ID.BLOCK;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: ConfigFields;
  readonly drive: BlockBackend;
  readonly zones: Zones | null;
  readonly #options: BlockOptions;
  readonly #shape: BlockShape;
  #device: VirtioDevice | null = null;
  /** What the driver wrote to `writeback`; null until it does. */
  #chosen: boolean | null = null;
  #inFlight: InFlight[] = [];
  readonly #timer: Timer | null;
  /** Who waits for nothing to be in flight. */
  #quiet: (() => void) | null = null;

  /** @throws Errno EINVAL for a disk that no driver could use */
  constructor(options: BlockOptions) {
    const shape = shapeOf(options);
    this.#shape = shape;
    this.#options = options;
    this.name = options.name ?? 'virtio-blk';
    this.drive = options.drive;
    this.zones = shape.zoned ? new Zones(options.drive, shape.zoned) : null;
    this.features = shape.features;
    this.queueSizes = new Array(shape.numQueues).fill(shape.queueSize);
    this.config = new BlockConfig(options.drive, shape, {
      zones: () => (this.#settled && !this.#zoneAware ? null : this.zones),
      writeback: () => this.writeback,
      mayChoose: () => this.#mayChoose,
      choose: (writeback) => {
        this.#chosen = writeback;
      },
    });
    this.#timer = options.clock?.timer(() => this.#work()) ?? null;
  }

  attach(device: VirtioDevice): void {
    this.#device = device;
  }

  // ## What is agreed

  // @clause virtio.blk.dev.legacy-device-never-offers-zoned
  readonly modernOnly = bit(BLK_F.ZONED);

  /** A driver that cannot keep the order of a host-managed disk cannot use it. */
  // @clause virtio.blk.dev.zoned-declined-hm-features-ok
  accepts(chosen: bigint): boolean {
    return this.zones?.model !== BLK_Z.HM || has(chosen, BLK_F.ZONED);
  }

  /** Whether both sides speak of zones. Before the standard there was no way to. */
  get #zoneAware(): boolean {
    return this.#device !== null && !this.#device.legacy && this.#device.has(BLK_F.ZONED);
  }

  /** Whether the driver has made its choice of features. */
  get #settled(): boolean {
    const device = this.#device;
    return device !== null && (device.legacy || (device.status & STATUS.FEATURES_OK) !== 0);
  }

  // ## Write-back or write-through
  //
  // A legacy driver has no FEATURES_OK. Its choice of features must not change the cache behind its back, so there only DRIVER_OK counts, and only when CONFIG_WCE
  // was not taken.

  /** Whether `writeback` may be written at this moment. */
  get #mayChoose(): boolean {
    const device = this.#device;
    if (!device || !has(this.features, BLK_F.CONFIG_WCE)) return false;
    if (device.legacy && !(device.status & STATUS.DRIVER_OK)) return true;
    return device.has(BLK_F.CONFIG_WCE);
  }

  /** Whether an answered write may still be lost: what the field `writeback` says. */
  get writeback(): boolean {
    const device = this.#device;
    const initial = this.#options.writeCache ?? true;
    if (!device || (device.status & (device.legacy ? STATUS.DRIVER_OK : STATUS.FEATURES_OK)) === 0) return this.#chosen ?? initial;
    // @clause virtio.blk.dev.stable-writes-reach-persistent-storage
    if (!device.has(BLK_F.CONFIG_WCE)) return device.has(BLK_F.FLUSH);
    // @clause virtio.blk.dev.config-wce-without-flush-writeback
    return this.#chosen ?? (initial && (device.legacy || device.has(BLK_F.FLUSH)));
  }

  /** Another capacity, in sectors, while the driver is running. False when the drive cannot. */
  // @clause virtio.blk.dev.capacity-can-change-run-time
  resize(sectors: number): boolean {
    if (this.zones) return false;
    if (!this.#device) return this.drive.resize?.(sectors) ?? false;
    let done = true;
    // @clause virtio.blk.dev.capacity-change-triggers-config-change
    this.#device.changeConfig(() => {
      done = this.drive.resize?.(sectors) ?? false;
    });
    return done;
  }

  // ## Serving
  //
  // A request that was taken is *in flight* until it is answered. Without a latency that is at once; with one it is when its time has come on the machine's clock,
  // and a short request overtakes a long one. Only its header is read, and nothing is written to its buffers, before its turn: when a reset comes first, the
  // request has never happened.
  //
  // A driver can ask for far more in one kick than it should get before the machine looks at anybody else. So with a clock there is a bound on what is moved in
  // one turn, and the rest is for the next.

  available(queue: VirtQueue): void {
    for (let chain = queue.pop(); chain; chain = queue.pop()) this.#begin(queue, new BlockRequest(chain));
    this.#work();
  }

  #begin(queue: VirtQueue, request: BlockRequest): void {
    const { latency, clock } = this.#options;
    const due = clock ? clock.now() + Math.max(0, latency?.(request.type, request.out.left + request.in.left) ?? 0) : 0;
    const after = this.#inFlight.findIndex((entry) => entry.due > due);
    this.#inFlight.splice(after < 0 ? this.#inFlight.length : after, 0, { request, queue, due, steps: null });
  }

  /** Answers what is due. A device that has failed answers nothing any more. */
  #work(): void {
    const { clock } = this.#options;
    if (this.#device?.failure != null) this.#inFlight = [];
    if (this.#device?.reachesMemory === false) return; // it comes back when there is memory again
    const now = clock?.now() ?? 0;
    const served = new Set<VirtQueue>();
    for (let left = this.#timer ? TURN_BYTES : Number.POSITIVE_INFINITY; left > 0; ) {
      const first = this.#inFlight[0];
      if (!first || first.due > now) break;
      first.steps ??= this.#answer(first.request);
      const step = first.steps.next();
      left -= step.done ? SECTOR_BYTES : step.value;
      if (!step.done) continue;
      this.#inFlight.shift();
      first.queue.push(first.request.chain, step.value);
      served.add(first.queue);
    }
    for (const queue of served) queue.notify();
    this.#settle();
  }

  /** Waits for what is next, or says that there is nothing left. */
  #settle(): void {
    const first = this.#inFlight[0];
    if (first) this.#timer?.arm(first.due);
    else this.#timer?.cancel();
    if (first) return;
    const quiet = this.#quiet;
    this.#quiet = null;
    quiet?.();
  }

  /** What is in flight cannot be written down; but it comes to its end by itself. */
  get busyNow(): string | null {
    return this.#inFlight.length > 0 ? `${this.name} has requests in flight` : null;
  }

  static readonly STATE = describe<BlockModel>('virtio-blk', 1, {
    chosen: field(
      kind.maybe(kind.flag),
      (block) => block.#chosen,
      (block, chosen) => {
        block.#chosen = chosen;
      },
    ),
    next: timer((block) => block.#timer),
  });

  savedParts(name: string): SavedPart[] {
    return this.zones ? [unsavedPart(`${name}, with its zones,`)] : [savedPart<BlockModel>(name, this, BlockModel.STATE)];
  }

  suspend(done: () => void): void {
    this.#quiet = done;
    this.#settle();
  }

  reset(): void {
    this.#chosen = null;
    this.#quiet = null;
    this.#inFlight = [];
    this.#settle();
  }

  queueReset(queue: VirtQueue): void {
    this.#inFlight = this.#inFlight.filter((entry) => entry.queue !== queue);
    this.#settle();
  }

  // The count of bytes that goes into the ring means the *first* so many of what the device may write. The status is the last of them, so everything before it has
  // to be written too, whatever became of the request: with zeroes, and not with what a failing disk left there.

  /** Does a request. The end is how many bytes were written: all that can be, or none where there is no place even for the status. */
  *#answer(request: BlockRequest): Steps<number> {
    if (!request.status) return 0;
    const status = yield* this.#perform(request);
    yield* status === BLK_S.OK ? request.in.fill(0) : request.blank();
    request.status[0] = status;
    return request.chain.writableBytes;
  }

  // ## Requests

  *#perform(request: BlockRequest): Steps<BlockStatus> {
    const { type } = request;
    if (request.malformed) return BLK_S.IOERR;
    switch (type) {
      case BLK_T.IN:
        return yield* this.#read(request);
      case BLK_T.OUT:
        return yield* this.#write(request);
      case BLK_T.FLUSH:
        return this.drive.flush() ? BLK_S.OK : BLK_S.IOERR;
      case BLK_T.FLUSH_OUT: // a second name, from before the standard
        if (!this.#device?.legacy) return BLK_S.UNSUPP;
        return this.drive.flush() ? BLK_S.OK : BLK_S.IOERR;
      case BLK_T.GET_ID:
        request.in.write(this.#shape.serial);
        return BLK_S.OK;
      case BLK_T.GET_LIFETIME:
        return this.#lifetime(request);
      case BLK_T.DISCARD:
        return yield* this.#ranges(request, 'discard', BLK_F.DISCARD);
      case BLK_T.WRITE_ZEROES:
        return yield* this.#ranges(request, 'write zeroes', BLK_F.WRITE_ZEROES);
      case BLK_T.SECURE_ERASE:
        return yield* this.#ranges(request, 'secure erase', BLK_F.SECURE_ERASE);
      default:
        return yield* this.#zoneRequest(request);
    }
  }

  /** A status that a driver without zones does not know is an error to it. */
  #plain(status: BlockStatus): BlockStatus {
    return this.#zoneAware || status <= BLK_S.UNSUPP ? status : BLK_S.IOERR;
  }

  *#read({ sector, in: data }: BlockRequest): Steps<BlockStatus> {
    const { zones } = this;
    if (!withinDisk(this.drive, sector, data.left)) return BLK_S.IOERR;
    const sectors = data.left / SECTOR_BYTES;
    const status = zones?.admitRead(sector, sectors) ?? BLK_S.OK;
    if (status !== BLK_S.OK) return this.#plain(status);
    for (let done = 0; done < sectors; ) {
      const { count, written } = zones?.extent(sector + done, sectors - done) ?? { count: sectors, written: true };
      // @clause virtio.blk.dev.reads-unwritten-data-byte-pattern
      const bytes = count * SECTOR_BYTES;
      if (!(yield* written ? transfer(this.drive, 'read', sector + done, data, bytes) : data.fill(0, bytes))) return BLK_S.IOERR;
      done += count;
    }
    return BLK_S.OK;
  }

  *#write(request: BlockRequest): Steps<BlockStatus> {
    const { sector, out: data } = request;
    // @clause virtio.blk.dev.ro-offered-writes-complete-ioerr
    // @clause virtio.blk.dev.ro-offered-writes-modify-nothing
    if (this.#shape.readOnly || !withinDisk(this.drive, sector, data.left)) return BLK_S.IOERR;
    const status = this.zones?.admitWrite(sector, data.left / SECTOR_BYTES) ?? BLK_S.OK;
    return status === BLK_S.OK ? yield* this.#store(sector, data) : this.#plain(status);
  }

  /** A write that was admitted: its zones hear of it, and without a write-back cache it is made stable before anybody is told. */
  *#store(sector: number, data: Pieces): Steps<BlockStatus> {
    const bytes = data.left;
    const count = bytes / SECTOR_BYTES;
    if (this.zones && !this.zones.fillGap(sector, count)) return BLK_S.IOERR;
    if (!(yield* transfer(this.drive, 'write', sector, data, bytes))) return BLK_S.IOERR;
    this.zones?.wrote(sector, count, this.#zoneAware);
    return this.writeback || this.drive.flush() ? BLK_S.OK : BLK_S.IOERR;
  }

  #lifetime({ in: data }: BlockRequest): BlockStatus {
    if (!this.drive.lifetime || !this.#device?.has(BLK_F.LIFETIME)) return BLK_S.UNSUPP;
    if (data.left < BlkLifetime.bytes) return BLK_S.IOERR;
    const { preEol, estimateA, estimateB } = this.drive.lifetime();
    // @clause virtio.blk.dev.reserved-lifetime-values-not-reported
    const known = (value: number, most: number): number => (Number.isInteger(value) && value >= 0 && value <= most ? value : 0);
    data.write(
      BlkLifetime.encode({
        pre_eol_info: known(preEol, 3),
        device_lifetime_est_typ_a: known(estimateA, 11),
        device_lifetime_est_typ_b: known(estimateB, 11),
      }),
    );
    return BLK_S.OK;
  }

  *#ranges({ out: data }: BlockRequest, kind: RangeKind, feature: number): Steps<BlockStatus> {
    if (!this.#device?.has(feature)) return BLK_S.UNSUPP;
    const { drive, zones } = this;
    const status = yield* performRanges(data, kind, {
      drive,
      zones: kind === 'secure erase' && !this.#zoneAware ? null : zones,
      limits: this.#shape.limits,
      readOnly: this.#shape.readOnly,
      zoneAware: this.#zoneAware,
    });
    if (status !== BLK_S.OK) return this.#plain(status);
    return this.writeback || drive.flush() ? BLK_S.OK : BLK_S.IOERR;
  }

  // ### Zones

  *#zoneRequest(request: BlockRequest): Steps<BlockStatus> {
    const { zones } = this;
    const { type, sector } = request;
    // @clause virtio.blk.dev.zoned-absent-all-zone-request
    if (!zones || !this.#zoneAware) return BLK_S.UNSUPP;
    if (type === BLK_T.ZONE_REPORT) return this.#report(zones, request);
    if (type === BLK_T.ZONE_APPEND) return yield* this.#append(zones, request);
    const change = {
      [BLK_T.ZONE_OPEN]: () => zones.openZone(sector),
      [BLK_T.ZONE_CLOSE]: () => zones.closeZone(sector),
      [BLK_T.ZONE_FINISH]: () => zones.finishZone(sector),
      [BLK_T.ZONE_RESET]: () => zones.resetZone(sector),
      [BLK_T.ZONE_RESET_ALL]: () => zones.resetAll(),
    }[type];
    if (!change) return BLK_S.UNSUPP;
    return this.#shape.readOnly ? BLK_S.IOERR : change();
  }

  #report(zones: Zones, { sector, in: data }: BlockRequest): BlockStatus {
    if (!withinDisk(this.drive, sector, SECTOR_BYTES) || data.left < BlkZoneReport.bytes) return BLK_S.ZONE_INVALID_CMD;
    const first = Math.floor(sector / zones.zoneSectors);
    const count = Math.min(zones.all.length - first, Math.floor((data.left - BlkZoneReport.bytes) / BlkZone.bytes));
    data.write(BlkZoneReport.encode({ nr_zones: BigInt(count) }));
    for (let index = first; index < first + count; index++) data.write(BlkZone.encode(zones.describe(index)));
    return BLK_S.OK;
  }

  *#append(zones: Zones, { sector, out: data, in: answer }: BlockRequest): Steps<BlockStatus> {
    if (this.#shape.readOnly || data.left % SECTOR_BYTES !== 0 || answer.left < BlkAppendSector.bytes) return BLK_S.IOERR;
    const admitted = zones.admitAppend(sector, data.left / SECTOR_BYTES);
    if (typeof admitted === 'number') return admitted;
    const status = yield* this.#store(admitted.at, data);
    if (status !== BLK_S.OK) return status;
    yield* answer.fill(0, answer.left - BlkAppendSector.bytes);
    // @clause virtio.blk.dev.successful-append-returns-first-written
    answer.write(BlkAppendSector.encode({ append_sector: BigInt(admitted.at) }));
    return BLK_S.OK;
  }
}

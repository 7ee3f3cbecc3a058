// # A driver of a balloon
//
// The host says how many pages it would like to have. The driver takes that many out of the guest's memory, so that nobody uses them, and tells their
// numbers; or takes some back. Everything else grew on it: figures about the guest's memory, and two ways to say "these pages are free, I have just
// not given them up".
//
// What the driver must be careful about is *when* a page is whose. From the moment its number is in a buffer the host may throw its contents away, so
// it has to be out of use before. And with MUST_TELL_HOST a page that comes back is not to be touched before the host has heard of it.

import { Errno } from '../../../02-kvm-objects/errno.ts';
import {
  BALLOON_F,
  BALLOON_PAGE_BYTES,
  BALLOON_S,
  type BalloonRole,
  CMD_ID,
  queueRoles,
  type StatName,
  VirtioBalloonConfig,
  VirtioBalloonStat,
} from '../../devices/balloon-layout.ts';
import { DEVICE_ID } from '../../features.ts';
import { type DmaBuffer, slice } from '../bus.ts';
import type { DeviceHandle } from '../virtio-device.ts';
import type { VirtioDriver } from '../virtio-driver.ts';
import type { Virtqueue } from '../virtqueue.ts';

/** Page numbers in one buffer. */
const PAGES_AT_ONCE = 256;
/** The largest piece of free memory that is reported at a time; as large as can be had, since large ones are worth more to the host. */
const REPORT_BYTES = 1 << 16;
const QUEUE_SIZE = 32;

export type Statistics = Partial<Record<StatName, number>>;

export interface BalloonDriverOptions {
  /** What the guest says about its memory. The same names each time. */
  readonly statistics?: () => Statistics;
  /** What free pages are filled with; such a guest takes PAGE_POISON. */
  readonly poison?: number;
  /** How queues are numbered, where those of features that were not taken would leave gaps. */
  readonly numbering?: 'specification' | 'dense';
}

type Queue = Virtqueue<DmaBuffer>;

export class Balloon {
  readonly #device: DeviceHandle;
  readonly #queues: Readonly<Partial<Record<BalloonRole, Queue>>>;
  readonly #options: BalloonDriverOptions;
  /** Pages that the host has. */
  readonly #pages: DmaBuffer[] = [];
  /** Pages that were hinted: the host may take what is in them until it says that it is done. */
  readonly #hinted: DmaBuffer[] = [];
  readonly #numbers: DmaBuffer;
  readonly #command: DmaBuffer;
  readonly #stats: DmaBuffer;
  #lastCommand: number = CMD_ID.DONE;
  #working = false;

  /** @throws Errno */
  constructor(device: DeviceHandle, options: BalloonDriverOptions) {
    this.#device = device;
    this.#options = options;
    const roles = queueRoles(options.numbering ?? 'specification', (feature) => device.has(feature));
    const found = device.findVqs<DmaBuffer>(
      roles.map((role) => role && { name: role, size: QUEUE_SIZE, callback: role === 'statsq' ? () => this.#answerStatistics() : null }),
    );
    this.#queues = Object.fromEntries(roles.flatMap((role, index) => (role ? [[role, found[index] as Queue]] : [])));
    const { dma } = device;
    this.#numbers = dma.allocate(4 * PAGES_AT_ONCE, 8);
    this.#command = dma.allocate(4, 8);
    // @clause virtio.balloon.dri.stats-buffer-size-multiple-6
    this.#stats = dma.allocate(VirtioBalloonStat.bytes * Object.keys(BALLOON_S).length, 8);
    // @clause virtio.balloon.dri.poison-val-written-before-driver
    // @clause virtio.balloon.dri.poison-val-constant-driver-ok
    if (device.has(BALLOON_F.PAGE_POISON)) device.writeConfig(VirtioBalloonConfig, 'poison_val', options.poison ?? 0);
  }

  /** The device runs. */
  start(): void {
    // @clause virtio.balloon.dri.statsq-buffer-supplied-after-initialization
    if (this.#queues.statsq) this.#supplyStatistics(this.#queues.statsq);
    this.work();
  }

  /** Pages that the host has, of this guest's. */
  get actual(): number {
    return this.#pages.length;
  }
  get target(): number {
    return this.#device.readConfig(VirtioBalloonConfig, 'num_pages').num_pages;
  }
  get hinted(): number {
    return this.#hinted.length;
  }

  /** Does what the configuration asks for: the size first, then hints. Called for every change. */
  work(): void {
    if (this.#working || this.#device.failure !== null) return;
    this.#working = true;
    try {
      this.#resize();
      if (this.#queues.free_page_vq) this.#hint(this.#queues.free_page_vq);
    } finally {
      this.#working = false;
    }
  }

  // ## The size

  #resize(): void {
    const { target } = this;
    const before = this.#pages.length;
    // @clause virtio.balloon.dri.inflate-num-pages-exceeds-current
    // @clause virtio.balloon.dri.inflate-permitted-num-pages-least
    while (this.#pages.length < target) if (!this.#inflate(Math.min(PAGES_AT_ONCE, target - this.#pages.length))) break;
    // @clause virtio.balloon.dri.deflate-permitted-num-pages-below
    // @clause virtio.balloon.dri.no-deflate-oom-no-page
    while (this.#pages.length > target) if (!this.#deflate(Math.min(PAGES_AT_ONCE, this.#pages.length - target))) break;
    if (this.#pages.length !== before) this.#tellActual();
  }

  // @clause virtio.balloon.dri.actual-field-updated-after-count
  // @clause virtio.balloon.dri.actual-can-updated-once-per
  #tellActual(): void {
    this.#device.writeConfig(VirtioBalloonConfig, 'actual', this.#pages.length);
  }

  #take(): DmaBuffer | null {
    return this.#allocate(BALLOON_PAGE_BYTES);
  }

  /** Memory that nobody uses; null when there is none. */
  #allocate(bytes: number): DmaBuffer | null {
    try {
      return this.#device.dma.allocate(bytes, BALLOON_PAGE_BYTES);
    } catch (error) {
      if (error instanceof Errno) return null;
      throw error;
    }
  }

  /** A page is the guest's again. With a pattern for free pages it has to carry that, whatever the host left in it. */
  #release(page: DmaBuffer): void {
    // @clause virtio.balloon.dri.deflated-pages-filled-poison-val
    // @clause virtio.balloon.dri.page-poison-cleared-unless-deflated
    if (this.#device.has(BALLOON_F.PAGE_POISON)) this.#fill(page);
    this.#device.dma.free(page);
  }

  #fill({ bytes }: DmaBuffer): void {
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(0, this.#options.poison ?? 0, true);
    for (let at = 4; at < bytes.length; at *= 2) bytes.copyWithin(at, 0, Math.min(at, bytes.length - at));
  }

  #inflate(most: number): boolean {
    const pages: DmaBuffer[] = [];
    while (pages.length < most) {
      const page = this.#take();
      if (!page) break;
      pages.push(page);
    }
    if (pages.length === 0) return false;
    // @clause virtio.balloon.dri.no-page-use-between-adding
    // @clause virtio.balloon.dri.no-deflation-page-before-inflate
    const done = this.#tell('inflateq', pages);
    if (done) this.#pages.push(...pages);
    return done && pages.length === most;
  }

  #deflate(count: number): boolean {
    const pages = this.#pages.slice(-count);
    // @clause virtio.balloon.dri.deflation-announced-through-deflateq
    // Without MUST_TELL_HOST it would be allowed to be quicker; it is simpler to wait always.
    // @clause virtio.balloon.dri.must-tell-host-pages-reused
    // @clause virtio.balloon.dri.no-must-tell-host-pages
    if (!this.#tell('deflateq', pages)) return false;
    this.#pages.length -= count;
    for (const page of pages) this.#release(page);
    return true;
  }

  /** Under pressure, pages back that the host would rather keep. True when it was so agreed, and some could be had. */
  deflateForMemory(count: number): boolean {
    // @clause virtio.balloon.dri.deflate-oom-pages-usable-under
    if (!this.#device.has(BALLOON_F.DEFLATE_ON_OOM) || this.#pages.length === 0) return false;
    const done = this.#deflate(Math.min(count, PAGES_AT_ONCE, this.#pages.length));
    if (done) this.#tellActual();
    return done;
  }

  /** Tells the numbers of pages, and waits until they were heard. If they were not, the pages are nobody's any more. */
  #tell(role: 'inflateq' | 'deflateq', pages: readonly DmaBuffer[]): boolean {
    const queue = this.#queues[role] as Queue;
    const numbers = slice(this.#numbers, 0, 4 * pages.length);
    const view = new DataView(numbers.bytes.buffer, numbers.bytes.byteOffset);
    for (const [index, { address }] of pages.entries()) view.setUint32(4 * index, address / BALLOON_PAGE_BYTES, true);
    return this.#handOver(queue, numbers, 'out');
  }

  /** One buffer there and back. */
  #handOver(queue: Queue, buffer: DmaBuffer, direction: 'out' | 'in'): boolean {
    const result = direction === 'out' ? queue.addOutbuf([buffer], buffer) : queue.addInbuf([buffer], buffer);
    if (result !== 0) return false;
    queue.kick();
    if (this.#device.waitUsed(queue) && queue.getBuf()) return true;
    this.#device.breakDevice(`${queue.name}: a buffer was not answered`);
    return false;
  }

  // ## Statistics
  //
  // The driver offers a full buffer; the device gives it back when it wants a newer one.

  #supplyStatistics(queue: Queue): void {
    const said = Object.entries(this.#options.statistics?.() ?? {}) as [StatName, number][];
    const view = new DataView(this.#stats.bytes.buffer, this.#stats.bytes.byteOffset);
    const entries = said.slice(0, Object.keys(BALLOON_S).length);
    // @clause virtio.balloon.dri.stats-buffer-filled-all-supported
    // @clause virtio.balloon.dri.statistics-subset-stays-same-across
    // @clause virtio.balloon.dri.stat-tags-appear-order
    // @clause virtio.balloon.dri.subset-statistics-sufficient
    for (const [index, [name, value]] of entries.entries())
      VirtioBalloonStat.store(view, index * VirtioBalloonStat.bytes, { tag: BALLOON_S[name], val: BigInt(Math.trunc(value)) });
    const full = slice(this.#stats, 0, Math.max(entries.length, 1) * VirtioBalloonStat.bytes);
    // @clause virtio.balloon.dri.statsq-holds-most-one-buffer
    if (queue.outstanding === 0 && queue.addOutbuf([full], full) === 0) queue.kick();
  }

  #answerStatistics(): void {
    const { statsq } = this.#queues;
    // @clause virtio.balloon.dri.used-statsq-buffer-replaced-new
    if (statsq?.getBuf()) this.#supplyStatistics(statsq);
  }

  // ## Hints
  //
  // The host is about to copy the guest's memory and would like to know what it can leave out. It starts a round with a number; the driver repeats
  // the number, names free pages in buffers that the device
  // "writes", and ends the round. A page that the guest needs meanwhile it simply takes: writing to it tells the host all it needs to know.

  #hint(queue: Queue): void {
    const id = this.#device.readConfig(VirtioBalloonConfig, 'free_page_hint_cmd_id').free_page_hint_cmd_id;
    if (id === this.#lastCommand) return;
    this.#lastCommand = id;
    // @clause virtio.balloon.dri.done-releases-all-hinted-pages
    if (id === CMD_ID.DONE) {
      this.#releaseHinted();
      return;
    }
    // @clause virtio.balloon.dri.command-id-stop-done-page
    if (id === CMD_ID.STOP) return;
    // @clause virtio.balloon.dri.hinting-begins-current-command-id
    // @clause virtio.balloon.dri.current-command-id-buffer-given
    if (!this.#sayCommand(queue, id)) return;
    // @clause virtio.balloon.dri.command-id-2-free-pages
    // @clause virtio.balloon.dri.hinted-page-contents-uninitialized
    for (let block = this.#allocate(REPORT_BYTES); block; block = this.#allocate(REPORT_BYTES)) {
      this.#hinted.push(block);
      if (!this.#handOver(queue, block, 'in')) return;
    }
    // @clause virtio.balloon.dri.driver-side-end-hinting-signalled
    this.#sayCommand(queue, CMD_ID.STOP);
    // Some memory is wanted for the guest itself.
    // @clause virtio.balloon.dri.hinted-pages-can-reclaimed-even
    // @clause virtio.balloon.dri.pages-reclaimed-before-done-initialized
    const one = this.#hinted.pop();
    if (one) {
      one.bytes.fill(0);
      this.#release(one);
    }
  }

  // @clause virtio.balloon.dri.hint-command-buffers-4-bytes
  #sayCommand(queue: Queue, id: number): boolean {
    new DataView(this.#command.bytes.buffer, this.#command.bytes.byteOffset).setUint32(0, id, true);
    return this.#handOver(queue, this.#command, 'out');
  }

  #releaseHinted(): void {
    for (const block of this.#hinted.splice(0)) this.#release(block);
  }

  // ## Reports
  //
  // The same without being asked: free memory is taken out of use, named, and put back when the host has heard of it. What was in it is gone then.

  /** Reports up to so many bytes of free memory; returns how many. Without the feature, none. */
  report(most: number): number {
    const queue = this.#queues.reporting_vq;
    let done = 0;
    // @clause virtio.balloon.dri.reporting-possible-time-after-driver
    while (queue && done < most) {
      // @clause virtio.balloon.dri.larger-page-reports-preferred
      const block = this.#allocate(Math.min(REPORT_BYTES, Math.ceil((most - done) / BALLOON_PAGE_BYTES) * BALLOON_PAGE_BYTES));
      if (!block) break;
      // @clause virtio.balloon.dri.no-page-poison-reported-pages
      // @clause virtio.balloon.dri.page-poison-pages-hold-poison
      if (this.#device.has(BALLOON_F.PAGE_POISON)) this.#fill(block);
      // @clause virtio.balloon.dri.reported-pages-unused-until-acknowledged
      // @clause virtio.balloon.dri.access-reported-pages-avoided
      if (!this.#handOver(queue, block, 'in')) break;
      done += block.bytes.length;
      this.#device.dma.free(block);
    }
    return done;
  }
}

/** The driver; `found` gets each balloon that works. */
export const balloonDriver = (found: (balloon: Balloon) => void, options: BalloonDriverOptions = {}): VirtioDriver => ({
  name: 'virtio_balloon',
  idTable: [{ device: DEVICE_ID.BALLOON }],
  // @clause virtio.balloon.dri.must-tell-host-accepted-offered
  // biome-ignore format: table
  featureTable: [
    BALLOON_F.MUST_TELL_HOST, BALLOON_F.STATS_VQ, BALLOON_F.DEFLATE_ON_OOM, BALLOON_F.FREE_PAGE_HINT, BALLOON_F.PAGE_POISON, BALLOON_F.PAGE_REPORTING,
  ],
  validate(device) {
    // A guest that has no pattern does not take the feature, and what is in its free pages it does not care for: so it may report them.
    // @clause virtio.balloon.dri.retained-page-contents-page-reporting
    if (options.poison === undefined) device.features &= ~(1n << BigInt(BALLOON_F.PAGE_POISON));
    return null;
  },
  probe(device) {
    device.private = new Balloon(device, options);
  },
  scan(device) {
    const balloon = device.private as Balloon;
    found(balloon);
    balloon.start();
  },
  configChanged: (device) => (device.private as Balloon).work(),
});

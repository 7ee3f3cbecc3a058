// # The memory balloon
//
// A host gives its guests memory, and would sometimes like some back. It cannot simply take a page: the guest is using it, or believes it is, and
// only the guest knows which pages mean nothing to it. So the host puts a driver into the guest that behaves like a program with an endless appetite.
// It allocates pages, tells the host which ones they are, and does not touch them. The host can then use the memory behind them for somebody else:
// the balloon in the guest has been inflated. To give memory back, the driver frees its pages, and the host finds new memory when they are touched.
//
// The device side of this is small. It states a wish (`num_pages`), reads what has come of it (`actual`), and for every page number in the inflate
// queue it lets go of a page. What is *not* small is everything that this arrangement turned out to lack, and the three extensions that followed:
//
// - The host does not know what to wish for. A guest with a full balloon and no memory left kills its programs. So the guest reports *statistics*.
// - The host has to ask. Pages that a guest happens not to need are not given back by themselves, until *free page reporting*.
// - A migration copies all of memory, also what means nothing. *Free page hinting* says what need not be copied.
//
// In QEMU this is `hw/virtio/virtio-balloon.c`, in Linux `drivers/virtio/virtio_balloon.c`.

import type { Clock } from '../../02-kvm-objects/clock.ts';
import { ERRNO, Errno } from '../../02-kvm-objects/errno.ts';
import { array, describe, field, kind, part, parts, type SavedPart, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import type { DeviceModel, VirtioDevice } from '../device.ts';
import { bit, DEVICE_ID, has } from '../features.ts';
import type { DeviceMemory } from '../memory.ts';
import type { Chain } from '../queue.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { BalloonHints } from './balloon-hints.ts';
import {
  BALLOON_F,
  BALLOON_PAGE_BYTES,
  type BalloonRole,
  type QueueNumbering,
  queueSizes,
  rolesOf,
  type StatName,
  VirtioBalloonConfig,
} from './balloon-layout.ts';
import { BalloonStatistics } from './balloon-statistics.ts';
import { ConfigSpace } from './config-fields.ts';
import { PieceReader } from './pieces.ts';
import { type Steps, Turns } from './turns.ts';

// ## Letting go of a page
//
// What it means to let go is the machine's business. On a host with an operating system it is `madvise(MADV_DONTNEED)` or a hole in a file, after
// which the page is zero when it is touched again, and until then costs nothing. Memory of a browser cannot be given back in pieces. There the honest
// thing to do is what the guest would see anyway: the page is filled with zeros. It saves nothing; but a driver that uses a page which it has given
// away finds that out here too.

/** Lets the machine use memory for something else. What the guest finds there later is zeros. */
interface PageDiscard {
  discard(address: number, bytes: number): void;
}

/** For memory that cannot be given back: what it shows is what it would show. */
const zeroFill = (memory: DeviceMemory): PageDiscard => ({
  discard(address, bytes) {
    const pieces = memory.map(address, bytes, 'write');
    if (!pieces) return;
    for (const piece of pieces) piece.fill(0);
    memory.written(address, bytes);
  },
});

interface BalloonOptions {
  /** How it is called in traces. */
  readonly name?: string;
  /** How much memory the guest has with an empty balloon. */
  readonly ramBytes: number;
  /** What becomes of pages; {@link zeroFill}, when absent. */
  readonly discard?: PageDiscard;
  /** Whether the driver has to say so *before* it uses a page again. `required` refuses drivers that will not. */
  readonly mustTellHost?: boolean | 'required';
  readonly stats?: boolean;
  readonly deflateOnOom?: boolean;
  readonly hinting?: boolean;
  readonly poison?: boolean;
  readonly reporting?: boolean;
  readonly numbering?: QueueNumbering;
  /** For statistics at intervals, and for guests that give a lot of work at once. */
  readonly clock?: Clock;
}

/** Pages let go before the rest of the machine goes on, in bytes. */
const BALLOON_TURN_BYTES = 64 << 20;

/** At most this much at a time is let go of. */
const DISCARD_BYTES = 1 << 20;

export class BalloonModel implements DeviceModel {
  readonly name: string;
  readonly deviceId = DEVICE_ID.BALLOON;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: ConfigSpace<typeof VirtioBalloonConfig.fields>;
  readonly ramBytes: number;
  /** The guest has put pages into the balloon; it has taken pages out; it has reported free ones. */
  onInflate: (address: number, bytes: number) => void = () => {};
  onDeflate: (address: number, bytes: number) => void = () => {};
  onReport: (address: number, bytes: number) => void = () => {};
  /** The driver has said how large the balloon is, in bytes. */
  onActual: (balloonBytes: number) => void = () => {};
  readonly statistics: BalloonStatistics;
  readonly hints: BalloonHints;
  readonly #numbering: QueueNumbering;
  readonly #insists: boolean;
  readonly #turns: Readonly<Record<Exclude<BalloonRole, 'statsq'>, Turns>>;
  readonly #givenDiscard: PageDiscard | null;
  /** How many pages the host wants. */
  #wish = 0;
  #discard: PageDiscard | null = null;
  #device: VirtioDevice | null = null;

  constructor(options: BalloonOptions) {
    const { stats = true, deflateOnOom = false, hinting = false, poison = true, reporting = false, mustTellHost = false } = options;
    const offered: [number, boolean][] = [
      [BALLOON_F.MUST_TELL_HOST, mustTellHost !== false],
      [BALLOON_F.STATS_VQ, stats],
      [BALLOON_F.DEFLATE_ON_OOM, deflateOnOom],
      [BALLOON_F.FREE_PAGE_HINT, hinting],
      [BALLOON_F.PAGE_POISON, poison],
      [BALLOON_F.PAGE_REPORTING, reporting],
    ];
    this.name = options.name ?? 'virtio-balloon';
    this.ramBytes = options.ramBytes;
    this.features = offered.reduce((set, [feature, on]) => (on ? set | bit(feature) : set), 0n);
    this.#numbering = options.numbering ?? 'either';
    this.#insists = mustTellHost === 'required';
    this.queueSizes = queueSizes(this.#numbering, (feature) => has(this.features, feature));
    this.#givenDiscard = options.discard ?? null;
    const { poison_val, free_page_hint_cmd_id } = VirtioBalloonConfig.fields;
    this.config = new ConfigSpace(
      VirtioBalloonConfig,
      {
        actual: { completedBy: 'highest byte', written: () => this.onActual(this.balloonBytes) },
        poison_val: { completedBy: 'highest byte', written: () => {}, allowed: () => this.#has(BALLOON_F.PAGE_POISON) && !this.#device?.live },
      },
      poison ? VirtioBalloonConfig.bytes : hinting ? poison_val.offset : free_page_hint_cmd_id.offset,
    );
    const clock = options.clock ?? null;
    this.statistics = new BalloonStatistics(clock);
    this.hints = new BalloonHints(() => this.#showChanges());
    const turns = (begin: (chain: Chain) => Steps): Turns => new Turns(begin, BALLOON_TURN_BYTES, clock);
    this.#turns = {
      inflateq: turns((chain) => this.#inflate(chain)),
      deflateq: turns((chain) => this.#deflate(chain)),
      free_page_vq: turns((chain) => this.hints.take(chain)),
      reporting_vq: turns((chain) => this.#report(chain)),
    };
  }

  attach(device: VirtioDevice): void {
    this.#device = device;
    this.#discard = this.#givenDiscard ?? zeroFill(device.memory);
    for (const each of [this.statistics, ...Object.values(this.#turns)]) each.device = device;
  }

  #has(feature: number): boolean {
    return this.#device?.has(feature) ?? false;
  }

  // @clause virtio.balloon.dev.must-tell-host-declined-features
  accepts(features: bigint): boolean {
    return !this.#insists || has(features, BALLOON_F.MUST_TELL_HOST);
  }

  // ## The host's wish
  //
  // A host thinks of how much memory a guest should have; the configuration space says how much it should give. The driver is told that something has
  // changed, and takes its time.

  /**
   * How much memory the guest should be left with.
   * @throws Errno EINVAL for less than a page
   */
  target(bytes: number): void {
    if (!(bytes >= BALLOON_PAGE_BYTES)) throw new Errno('balloon', ERRNO.EINVAL, `a guest cannot live in ${bytes} bytes`);
    const pages = Math.floor(Math.max(0, this.ramBytes - bytes) / BALLOON_PAGE_BYTES);
    if (this.#wish === pages) return;
    this.#wish = pages;
    this.#showChanges();
  }

  /** How much is in the balloon, as far as the driver has said. */
  get balloonBytes(): number {
    return VirtioBalloonConfig.load(this.config.view).actual * BALLOON_PAGE_BYTES;
  }

  /** How much memory the guest has left. A driver can say anything; there is never more than there is. */
  get actual(): number {
    return Math.max(0, this.ramBytes - this.balloonBytes);
  }

  // A driver that sleeps is shown a change when it wakes, and then it is shown how things are, not how they were when they changed.

  #showChanges(): void {
    const change = (): void => VirtioBalloonConfig.store(this.config.view, 0, { num_pages: this.#wish, free_page_hint_cmd_id: this.hints.cmdId });
    if (this.#device) this.#device.changeConfig(change);
    else change();
  }

  /** The latest statistics; empty before there are any. */
  stats(): Readonly<Partial<Record<StatName, bigint>>> {
    return this.statistics.latest;
  }

  /** Asks the driver for new statistics. False when it has given no buffer in which to answer. */
  requestStats(): boolean {
    return this.statistics.request();
  }

  startHinting(): boolean {
    return this.#has(BALLOON_F.FREE_PAGE_HINT) && this.hints.start();
  }

  stopHinting(): void {
    this.hints.stop();
  }

  // ## The driver comes, and goes
  //
  // After a reset nobody remembers which pages were in the balloon. Whoever drives the device next uses all of memory, so the balloon is empty. (QEMU
  // keeps the old number until a driver writes another.) The wish remains: it is the host's.

  reset(): void {
    for (const turns of Object.values(this.#turns)) turns.forget();
    this.statistics.reset(this.#device?.legacy ?? false);
    this.hints.reset();
    VirtioBalloonConfig.store(this.config.view, 0, { actual: 0, poison_val: 0, free_page_hint_cmd_id: this.hints.cmdId });
  }

  start(): void {
    this.statistics.reset(this.#device?.legacy ?? false);
  }

  available(queue: VirtQueue): void {
    const role = this.#roleOf(queue);
    if (role === 'statsq') this.statistics.available(queue);
    else if (role !== null) this.#turns[role].available(queue);
  }

  queueReset(queue: VirtQueue): void {
    const role = this.#roleOf(queue);
    if (role === 'statsq') this.statistics.forget();
    else if (role !== null) this.#turns[role].forget();
  }

  // A page list that is half done is finished before the device falls silent. The buffer of the statistics stays: it belongs here until there is a
  // question.

  suspend(done: () => void): void {
    const [first, ...others] = Object.values(this.#turns);
    others.reduce(
      (next, turns) => () => turns.rest(next),
      () => first?.rest(done),
    )();
  }

  /** What a queue is for, to this driver; null of one that does not exist for it. */
  #roleOf(queue: VirtQueue): BalloonRole | null {
    const enabled = this.#device?.queues.filter(({ enabled, index }) => enabled || index === queue.index).map(({ index }) => index) ?? [];
    return rolesOf(this.#numbering, (feature) => this.#has(feature), enabled)[queue.index] ?? null;
  }

  // ## Pages, one number at a time
  //
  // A buffer is an array of page numbers, 32 bits each, in as many pieces as the driver likes; what is left of a number at the end is no number. A
  // number may name a page twice, or no RAM at all (firmware, a device's registers, nothing). Such a page is passed over: to let go of what the guest
  // sees in a ROM would be to change the ROM.
  //
  // Numbers that follow each other are let go of together. It does not happen by itself: the driver hands over its pages in the order in which it got
  // them. And here is the reason why this interface was replaced for all but its first purpose. A gigabyte is one number for each of its pages, as
  // many calls to the host's kernel, and a host that had the gigabyte in a few huge pages has torn them to pieces at the end.

  *#inflate(chain: Chain): Steps {
    // @clause virtio.balloon.dev.inflating-pages-can-altered-before
    // @clause virtio.balloon.dev.must-tell-host-page-contents
    for (const [address, bytes] of this.#runs(chain)) {
      if (address >= 0) {
        this.#discard?.discard(address, bytes);
        this.onInflate(address, bytes);
      }
      yield bytes;
    }
    return 0;
  }

  // Taking a page out is no more than news, as memory comes back when it is touched. It *has to be* news before the touch only with MUST_TELL_HOST,
  // for hosts that do not hear of a touch.

  *#deflate(chain: Chain): Steps {
    for (const [address, bytes] of this.#runs(chain)) {
      if (address >= 0) this.onDeflate(address, bytes);
      yield bytes;
    }
    return 0;
  }

  /** Runs of pages that follow each other, `[address, bytes]`; a number that is no RAM has the address -1. */
  *#runs(chain: Chain): Generator<[number, number]> {
    const reader = new PieceReader(chain.readable);
    const number = new DataView(new ArrayBuffer(4));
    let start = -1;
    let end = -1;
    for (;;) {
      const bytes = reader.take(4);
      if (bytes.length < 4) break;
      new Uint8Array(number.buffer).set(bytes);
      const address = number.getUint32(0, true) * BALLOON_PAGE_BYTES;
      const isRam = this.#device?.memory.map(address, BALLOON_PAGE_BYTES, 'write') != null;
      if (isRam && start >= 0 && address === end && end - start < DISCARD_BYTES) end += BALLOON_PAGE_BYTES;
      else {
        if (start >= 0) yield [start, end - start];
        [start, end] = isRam ? [address, address + BALLOON_PAGE_BYTES] : [-1, -1];
        if (!isRam) yield [-1, BALLOON_PAGE_BYTES];
      }
    }
    if (start >= 0) yield [start, end - start];
  }

  // ## Free page reporting
  //
  // Here the pages themselves are the buffer. The driver describes free memory as something that the device may *write*, megabytes in a descriptor,
  // and until the device gives the buffer back it lets nobody have them. No wish, no page numbers, no deflating: a page is the guest's again as soon
  // as the report is answered, and how the host provides for that is its own affair.
  //
  // There is one trap. Some guests fill free pages with a pattern, to find those who write to what they have freed. A page that was let go comes back
  // as zeros, and such a guest would report a corruption that its own host has made. PAGE_POISON tells the device what the pattern is. With any but
  // zero a report changes nothing.

  *#report(chain: Chain): Steps {
    for (const [address, bytes] of chain.writableAt) {
      if (address % BALLOON_PAGE_BYTES !== 0 || bytes % BALLOON_PAGE_BYTES !== 0) {
        yield BALLOON_PAGE_BYTES;
        continue;
      }
      for (let at = 0; at < bytes; at += DISCARD_BYTES) {
        const part = Math.min(DISCARD_BYTES, bytes - at);
        // @clause virtio.balloon.dev.page-poison-reported-pages-keep
        // @clause virtio.balloon.dev.poison-val-can-hint-guest
        // @clause virtio.balloon.dev.no-page-poison-reported-pages
        if (this.#poison === 0) this.#discard?.discard(address + at, part);
        this.onReport(address + at, part);
        yield part;
      }
    }
    return 0;
  }

  get #poison(): number {
    return this.#has(BALLOON_F.PAGE_POISON) ? VirtioBalloonConfig.load(this.config.view).poison_val : 0;
  }

  get busyNow(): string | null {
    return Object.values(this.#turns).some(({ busyNow }) => busyNow) ? `${this.name} has a list of pages half done` : null;
  }

  static readonly STATE = describe<BalloonModel>('balloon', 1, {
    config: array(({ config: { view } }) => new Uint8Array(view.buffer)),
    wish: field(
      kind.safe,
      (balloon) => balloon.#wish,
      (balloon, wish) => {
        balloon.#wish = wish;
      },
    ),
    turns: parts((balloon) => Object.values(balloon.#turns), Turns.STATE),
    hints: part(({ hints }) => hints, BalloonHints.STATE),
    statistics: part(({ statistics }) => statistics, BalloonStatistics.STATE),
  });

  savedParts(name: string): SavedPart[] {
    return [savedPart<BalloonModel>(name, this, BalloonModel.STATE)];
  }
}

// # Pages that need not be copied
//
// A migration copies the guest's memory while the guest runs, and most of a guest's memory is usually free. Reporting would not help: a page that was
// let go a minute ago may be in use by now. What is wanted is a list of what is free *at this moment*, and the certainty that a page which is used
// again afterwards is copied after all. The second part the migration has anyway, since it keeps track of what is written. So a hint can be wrong,
// and costs nothing then.
//
// What a hint must not be is *late*. A page hinted for one round, used by the guest, and struck off the list of the next would be lost. Therefore
// each round has a number, the command id. The device announces it in the configuration space. The driver repeats it in the queue, before the pages
// that it hints for it, and ends its list with STOP. Whatever comes under another number is not looked at.

import { describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';
import type { Chain } from '../queue.ts';
import { BALLOON_PAGE_BYTES, CMD_ID, FIRST_CMD_ID } from './balloon-layout.ts';
import { PieceReader } from './pieces.ts';
import type { Steps } from './turns.ts';

/** Where a round of hinting is: asked for, under way, given up or at its end, and over for good. */
const HINT_STATES = ['requested', 'started', 'stopped', 'done'] as const;
type HintState = (typeof HINT_STATES)[number];

export class BalloonHints {
  /** A free page, or many, of the round that is under way. */
  onHint: (address: number, bytes: number) => void = () => {};
  /** The driver has no more to say in this round. */
  onEnd: () => void = () => {};
  readonly #announce: () => void;
  #state: HintState = 'stopped';
  #round = FIRST_CMD_ID - 1;

  /** `announce` is told when {@link cmdId} is another. */
  constructor(announce: () => void) {
    this.#announce = announce;
  }

  get state(): HintState {
    return this.#state;
  }

  /** What the configuration space shows. */
  get cmdId(): number {
    if (this.#state === 'done') return CMD_ID.DONE;
    return this.#state === 'stopped' ? CMD_ID.STOP : this.#round;
  }

  // ## The device's side
  //
  // Every round has a number of its own. They come round again after half of all numbers, and the one that would be used again then has been
  // given up long before.

  /** Asks for hints. */
  start(): boolean {
    // @clause virtio.balloon.dev.command-id-reused-only-after
    this.#round = this.#round === 0xffff_ffff ? FIRST_CMD_ID : this.#round + 1;
    this.#become('requested');
    return true;
  }

  // @clause virtio.balloon.dev.hints-unusable-command-id-set
  /** Hints are of no use now. The driver keeps its pages back: there may be another round. */
  stop(): void {
    if (this.#state === 'requested' || this.#state === 'started') this.#become('stopped');
  }

  // @clause virtio.balloon.dev.done-reported-once-hinted-pages
  // @clause virtio.balloon.dev.hinted-pages-untouched-after-done
  /** Hints are no longer needed, and the pages that were hinted are the guest's. */
  finish(): void {
    if (this.#state !== 'done') this.#become('done');
  }

  #become(state: HintState): void {
    this.#state = state;
    this.#announce();
  }

  reset(): void {
    this.#state = 'stopped';
  }

  static readonly STATE = describe<BalloonHints>('balloon hints', 1, {
    round: field(
      kind.record<{ state: HintState; round: number }>({ state: kind.oneOf(HINT_STATES), round: kind.u32 }),
      (hints) => ({ state: hints.#state, round: hints.#round }),
      (hints, v) => {
        ({ state: hints.#state, round: hints.#round } = v);
      },
    ),
  });

  // ## The driver's side

  /** A buffer: a number, or pages, or both. */
  *take(chain: Chain): Steps {
    if (chain.readableBytes === 4) this.#command(new DataView(new PieceReader(chain.readable).take(4).buffer).getUint32(0, true));
    for (const [address, bytes] of chain.writableAt) {
      // @clause virtio.balloon.dev.pages-stale-command-id-disregarded
      // @clause virtio.balloon.dev.unmodified-hinted-pages-can-altered
      if (this.#state === 'started' && address % BALLOON_PAGE_BYTES === 0 && bytes % BALLOON_PAGE_BYTES === 0) this.onHint(address, bytes);
      yield BALLOON_PAGE_BYTES;
    }
    return 0;
  }

  // The end of a round that was given up may arrive after the next has been announced. It must not end that one, so in a round that the driver has
  // not begun nothing but its number counts.

  #command(cmdId: number): void {
    if (this.#state === 'requested' && cmdId === this.#round) this.#state = 'started';
    else if (this.#state === 'started' && cmdId !== this.#round) {
      this.#become('stopped');
      this.onEnd();
    }
  }
}

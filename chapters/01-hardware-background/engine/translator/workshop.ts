// # Somebody else's time
//
// To translate a piece of code takes as long as to interpret it some thousand times, and meanwhile the guest waits. It need not: what is hot today will be hot
// tomorrow. So where there is a processor to spare, translations are *ordered*, from a thread that has this chapter's tables and neither processor nor memory, and the
// guest goes on interpreted until the module is there.
//
// A guest cannot notice: whether an instruction is interpreted or translated never shows. What may have changed meanwhile is the guest's code. So an order takes a copy
// of the page along, and the page is compared with its copy before the module is used for the first time.

import { fillOrder, type Made, type Order } from './order.ts';

/** Who translates while the guest goes on. */
export interface Workshop {
  /** Takes an order; `done` is told what came of it, in some later call of {@link deliver}. False: whoever ordered is to do it himself. */
  order(order: Order, done: (made: Made | null) => void): boolean;
  /** Hands over what is finished. Called often, between two runs of the guest. */
  deliver(): void;
}

interface SentOrder {
  readonly ticket: number;
  readonly order: Order;
}
/** The answer to an order. The first message is none: it says that the thread is there. */
interface SentMade {
  readonly ticket: number;
  readonly made: Made | null;
}

/** A thread is as long in starting as it takes to translate some pieces of code, and many a guest has no more. So the first are translated by whoever wants them. */
const FIRST = 16;
/** The most orders under way. */
const MOST = 64;

/** A workshop that is reached by messages. */
export abstract class RemoteWorkshop implements Workshop {
  readonly #waiting = new Map<number, (made: Made | null) => void>();
  #asked = 0;
  #tickets = 0;
  #ready = false;

  /** Starts the thread. */
  protected abstract start(): void;
  protected abstract send(message: SentOrder): void;
  abstract deliver(): void;

  order(order: Order, done: (made: Made | null) => void): boolean {
    if (++this.#asked === FIRST) this.start();
    if (!this.#ready || this.#waiting.size === MOST) return false;
    const ticket = ++this.#tickets;
    this.#waiting.set(ticket, done);
    this.send({ ticket, order });
    return true;
  }

  /** A message from the thread. */
  protected received({ ticket, made }: SentMade): void {
    this.#ready = true;
    const done = this.#waiting.get(ticket);
    this.#waiting.delete(ticket);
    done?.(made);
  }
}

/** The thread's half: fills orders one after the other, wherever they come from. Returns what to call with each. */
export function serveOrders(send: (message: SentMade) => void): (message: SentOrder) => void {
  const denied = new Set<number>();
  send({ ticket: 0, made: null });
  return ({ ticket, order }) => send({ ticket, made: fillOrder(order, denied) });
}

export type { SentMade, SentOrder };

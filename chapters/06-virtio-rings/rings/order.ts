// # In the order they came
//
// With IN_ORDER a driver may forget which buffer is where: the next one that comes back is the next one it sent. A disk finishes its requests as it
// likes, so somebody has to hold the early ones back. It is done here, below the device models, and none of them has to know.
//
// What is let go together may be told together: one element names the last of a batch, and the driver takes those before it as returned and
// *completely written*. So only a chain that is full may be passed over in silence.

import type { RingChain } from './chain.ts';

/** Chains that the device holds, oldest first. There are never more than the queue has descriptors. */
// @clause virtio.reserved.dev.order-buffers-used-order-made
export class InOrder {
  readonly #slots: (RingChain | null)[];
  #first = 0;
  #count = 0;

  constructor(size: number) {
    this.#slots = new Array<RingChain | null>(size).fill(null);
  }

  took(chain: RingChain): void {
    this.#slots[(this.#first + this.#count++) % this.#slots.length] = chain;
  }

  /** The oldest chain, if it has been given back; it is then forgotten here. */
  next(): RingChain | null {
    const chain = this.#slots[this.#first] ?? null;
    if (this.#count === 0 || chain === null || chain.out) return null;
    this.#slots[this.#first] = null;
    this.#first = (this.#first + 1) % this.#slots.length;
    this.#count--;
    return chain;
  }
}

/** A chain that the driver may find out about from the one after it. */
export const isFull = (chain: RingChain): boolean => chain.written === chain.writableBytes;

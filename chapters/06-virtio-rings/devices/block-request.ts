// # A request as it lies in a chain
//
// Sixteen readable bytes, readable data, writable data, one writable byte. Where a buffer ends means nothing: the header may come one byte at a time, and the
// status may be the last byte of a page of data. Only drivers from before the standard had to put each part into a descriptor of its own, and what they send is a
// special case.

import type { Chain } from '../queue.ts';
import { Pieces, type Steps } from './block-data.ts';
import { BlkOutHdr } from './block-layout.ts';

export class BlockRequest {
  readonly chain: Chain;
  /** The header is not whole. */
  readonly malformed: boolean;
  readonly type: number;
  /** As a number: what is too large to be exact is far too large for a disk. */
  readonly sector: number;
  /** Data for the device: what follows the header. */
  readonly out: Pieces;
  /** Room for data: all that is writable but for the last byte. */
  readonly in: Pieces;
  /** That last byte; null when there is none, and so no way to answer. */
  readonly status: Uint8Array | null;

  constructor(chain: Chain) {
    this.chain = chain;
    const header = new Uint8Array(BlkOutHdr.bytes);
    this.out = new Pieces(chain.readable, chain.readableBytes);
    this.malformed = chain.readableBytes < header.length;
    if (!this.malformed) this.out.read(header);
    const { type, sector } = BlkOutHdr.decode(header);
    this.type = type;
    this.sector = Number(sector);
    this.in = new Pieces(chain.writable, Math.max(0, chain.writableBytes - 1));
    const last = chain.writable.findLast((piece) => piece.length > 0);
    this.status = last?.subarray(last.length - 1) ?? null;
  }

  /** All room for data becomes zeroes: what a failing disk left there is not for the driver. */
  blank(): Steps {
    return new Pieces(this.chain.writable, Math.max(0, this.chain.writableBytes - 1)).fill(0);
  }
}

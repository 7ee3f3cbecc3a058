// # From descriptors to buffers
//
// A chain is data from a stranger. It may say that it never ends, that its buffers are where no memory is, that the device shall read what it was
// given to write. The walk therefore has one bound that nothing gets around, and it reads each field of a descriptor *once*, into a local. A second
// look could see something else: the driver is another processor, and what was checked at the first look is worth nothing at the second.

import type { DeviceMemory } from '../memory.ts';
import type { Chain } from '../queue.ts';
import type { Area, AreaSource } from './area.ts';
import { MAX_CHAIN_BYTES, VIRTQ_DESC_F, virtq_desc } from './layout.ts';

/** What a chain has that has none: most have buffers of one kind only. */
const NO_PIECES: Uint8Array[] = [];
const NOWHERE: [number, number][] = [];
const { NEXT, WRITE, INDIRECT } = VIRTQ_DESC_F;
const { bytes: DESC_BYTES } = virtq_desc;

/** What a walk needs of the ring that it is for. */
export interface Walk {
  readonly memory: DeviceMemory;
  readonly areas: AreaSource;
  /** The longest chain of the ring's own descriptors: as many as the queue has. */
  readonly size: number;
  /** The longest that goes on in a table. */
  readonly most: number;
  /** INDIRECT_DESC was negotiated. */
  readonly indirect: boolean;
}

/** A chain in the hands of the device. */
export class RingChain implements Chain {
  /** The ring that it came out of, and that alone takes it back. */
  readonly ring: object;
  id = 0;
  readable: Uint8Array[] = NO_PIECES;
  writable: Uint8Array[] = NO_PIECES;
  writableAt: [number, number][] = NOWHERE;
  readableBytes = 0;
  writableBytes = 0;
  descriptors = 0;
  /** The device has not given it back yet. */
  out = true;
  /** How many bytes the device has written, once it is given back. */
  written = 0;
  #elements = 0;
  #writes = false;

  constructor(ring: object) {
    this.ring = ring;
  }

  /** Takes in one buffer, of at most so many. Returns what is wrong with it, or null. */
  add(walk: Walk, most: number, low: number, high: number, len: number, flags: number): string | null {
    // @clause virtio.robust.dev.chain-loop
    // @clause virtio.framing.dev.chain-length-can-capped-sensible
    // @clause virtio.packed.dev.buffers-per-list-can-capped
    // @clause virtio.framing.dev.chain-as-long-as-queue
    if (this.#elements++ === most) return `a chain of more than ${most} descriptors`;
    const writes = (flags & WRITE) !== 0;
    // @clause virtio.robust.dev.readable-after-writable
    if (this.#writes && !writes) return 'a buffer to read after one to write';
    this.#writes = writes;
    if (len === 0) return null;
    // @clause virtio.robust.dev.length-overflow
    if (this.readableBytes + this.writableBytes + len > MAX_CHAIN_BYTES) return 'a chain of more than 4 GiB';
    const address = high * 2 ** 32 + low;
    // @clause virtio.robust.dev.address-not-ram
    // @clause virtio.framing.dev.buffer-at-end-of-ram
    // @clause virtio.split.dev.read-only-driver-out-buffers
    // @clause virtio.packed.dev.packed-readable-buffers-never-written
    const pieces = address + len <= Number.MAX_SAFE_INTEGER ? walk.memory.map(address, len, writes ? 'write' : 'read') : null;
    if (pieces === null) return `a buffer that is no RAM: ${len} bytes at 0x${address.toString(16)}`;
    if (writes) {
      this.writableBytes += len;
      if (this.writable === NO_PIECES) this.writableAt = [[address, len]];
      else this.writableAt.push([address, len]);
      this.writable = joined(this.writable, pieces);
    } else {
      this.readableBytes += len;
      this.readable = joined(this.readable, pieces);
    }
    return null;
  }

  // @clause virtio.split.dev.bytes-beyond-reported-len-can
  /** All that the device may have stored to, whatever it says that it has. */
  tellWritten(memory: DeviceMemory): void {
    for (let piece = 0; piece < this.writableAt.length; piece++) {
      const at = this.writableAt[piece] as [number, number];
      memory.written(at[0], at[1]);
    }
  }
}

/** All pieces, in a list of the chain's own. Most chains have one piece of a kind, and an array that is made with it has no room for more. */
function joined(list: Uint8Array[], pieces: readonly Uint8Array[]): Uint8Array[] {
  if (list === NO_PIECES) return pieces.length === 1 ? [pieces[0] as Uint8Array] : [...pieces];
  for (const piece of pieces) list.push(piece);
  return list;
}

// ## Links
//
// A split chain jumps: each descriptor names the next. A loop is a chain without end, and needs no detector of its own: the bound on descriptors stops it.

/** Follows a split chain from `table[first]`. Returns what is wrong, or null. `nested`: the table is an indirect one. */
export function follow(walk: Walk, chain: RingChain, table: Area, count: number, first: number, nested: boolean): string | null {
  for (let index = first; ; ) {
    // @clause virtio.robust.dev.head-out-of-range
    if (index >= count) return `descriptor ${index} of ${count}`;
    const at = index * DESC_BYTES;
    const low = table.load32(at);
    const high = table.load32(at + 4);
    const len = table.load32(at + 8);
    const flags = table.load16(at + 12);
    const next = table.load16(at + 14);
    if (!nested) chain.descriptors++;
    // @clause virtio.split-indirect.dev.chain-direct-descriptors-ending-one
    // @clause virtio.split-indirect.dev.write-flag-descriptor-pointing-indirect
    if (flags & INDIRECT) {
      // @clause virtio.robust.dev.indirect-nested
      if (nested) return 'an indirect table inside an indirect table';
      if (flags & NEXT) return 'INDIRECT and NEXT in one descriptor';
      const inner = openTable(walk, low, high, len);
      return typeof inner === 'string' ? inner : follow(walk, chain, inner, len / DESC_BYTES, 0, true);
    }
    const wrong = chain.add(walk, nested ? walk.most : walk.size, low, high, len, flags);
    if (wrong !== null || !(flags & NEXT)) return wrong;
    index = next;
  }
}

// ## Tables
//
// An indirect table is a piece of the driver's memory like a buffer, except that the device interprets it. WRITE on the descriptor that refers to it
// means nothing.

function openTable(walk: Walk, low: number, high: number, len: number): Area | string {
  // @clause virtio.robust.dev.indirect-unnegotiated
  if (!walk.indirect) return 'INDIRECT, which was not negotiated';
  // @clause virtio.robust.dev.indirect-odd-length
  if (len === 0 || len % DESC_BYTES !== 0) return `an indirect table of ${len} bytes`;
  const address = high * 2 ** 32 + low;
  const table = address + len <= Number.MAX_SAFE_INTEGER ? walk.areas.open(address, len, 'read') : null;
  return table ?? `an indirect table that is no RAM: ${len} bytes at 0x${address.toString(16)}`;
}

/** Takes in a packed ring's indirect table: everything in it, in order. Of the flags only WRITE counts, and {@link RingChain.add} looks at no other. */
export function list(walk: Walk, chain: RingChain, low: number, high: number, len: number): string | null {
  const table = openTable(walk, low, high, len);
  if (typeof table === 'string') return table;
  for (let at = 0; at < len; at += DESC_BYTES) {
    const wrong = chain.add(walk, walk.most, table.load32(at), table.load32(at + 4), table.load32(at + 8), table.load16(at + 14));
    if (wrong !== null) return wrong;
  }
  return null;
}

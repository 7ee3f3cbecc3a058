// # What a script knows of a ring
//
// The two formats differ in everything but the idea: buffers go out, and come back in some order with a length. A script speaks of *chains*, numbered in the
// order in which it made them. Each format below turns that into bytes, and remembers enough to say which chain a used element is.

import type { Script } from './bus.ts';
import type { Block } from './memory.ts';

export const DESC_BYTES = 16;
export const F_NEXT = 1;
export const F_WRITE = 2;
export const F_INDIRECT = 4;
export const F_AVAIL = 0x80;
export const F_USED = 0x8000;

/** One descriptor as it will be, format aside. */
export interface DescPlan {
  readonly addr: bigint;
  readonly len: bigint;
  readonly writable: boolean;
  /** Exactly these, in place of what the chain needs. */
  readonly flags?: number;
  readonly next?: bigint;
}

/** A buffer that came back. `chain` is null for an identifier that was not out; `len` is null where the device need not write one. */
export interface UsedElement {
  readonly id: number;
  readonly len: number | null;
  readonly chain: number | null;
}

export interface Areas {
  readonly desc: Block;
  readonly driver: Block;
  readonly device: Block;
}

export interface RawDesc {
  readonly index: number;
  readonly addr: bigint;
  readonly len: bigint;
  readonly flags: number;
  /** Split: next. Packed: the buffer's identifier. */
  readonly link: bigint;
}

export interface Ring {
  readonly size: number;
  readonly areas: Areas;
  /** Lays a chain out and, unless told to wait, makes it available. Returns its number. */
  chain(descs: readonly DescPlan[], options: { readonly id?: number; readonly publish: boolean }): Script<number>;
  /** Makes available what was laid out. */
  publish(): Script<void>;
  /** Looks what has come back since the last time. */
  poll(): Script<void>;
  /** Everything that has come back. */
  readonly used: readonly UsedElement[];
  /** Where the next buffer that comes back is announced, and where it is described. */
  readonly next: { readonly announced: Block; readonly described: Block };
  /** One descriptor, byte by byte, in the ring's table. */
  raw(desc: RawDesc): Script<void>;
  /** Says when to be interrupted: always, never, or at this value of the format's event field. */
  want(when: 'always' | 'never' | bigint, eventIdx: boolean): Script<void>;
  /** When the device wants to be notified, as it says it. */
  wanted(): Script<{ readonly flags: bigint; readonly event: bigint }>;
  /** What a notification with data carries besides the queue's number. */
  readonly notificationData: number;
}

/** A table of descriptors in one piece of memory, as an indirect descriptor names it. */
export function indirectTable(descs: readonly DescPlan[], packed: boolean): Uint8Array {
  const bytes = new Uint8Array(descs.length * DESC_BYTES);
  for (const [i, desc] of descs.entries()) {
    const next = i + 1 < descs.length && !packed;
    const flags = desc.flags ?? (next ? F_NEXT : 0) | (desc.writable ? F_WRITE : 0);
    const link = desc.next ?? (next ? BigInt(i + 1) : 0n);
    bytes.set(descBytes({ addr: desc.addr, len: desc.len, flags, link }, packed), i * DESC_BYTES);
  }
  return bytes;
}

/** Both formats have 16 bytes, with the last two fields exchanged. */
export function descBytes({ addr, len, flags, link }: Omit<RawDesc, 'index'>, packed: boolean): Uint8Array {
  const bytes = new Uint8Array(DESC_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt.asUintN(64, addr), true);
  view.setUint32(8, Number(BigInt.asUintN(32, len)), true);
  view.setUint16(packed ? 14 : 12, flags & 0xffff, true);
  view.setUint16(packed ? 12 : 14, Number(BigInt.asUintN(16, link)), true);
  return bytes;
}

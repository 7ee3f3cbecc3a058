// # Bytes with rules
//
// A function's configuration space is 256 bytes (4096 on PCI Express) of which software may change some bits, clear others by writing ones, and
// only look at the rest. A driver sizes a BAR by writing all ones and seeing which stick; so the rules are as much part of the interface as the
// values. They are kept as two more arrays of the same length, and a write is the same three lines for every byte of every device.

import { describe, StateError } from '../../03-vcpu-loop/devices/state.ts';
import type { RegisterTable } from '../registers.ts';

/** Width of an access to configuration space. */
export type ConfigWidth = 1 | 2 | 4;

/** Size of the conventional configuration space. */
export const CONFIG_BYTES = 256;
/** Size of the extended configuration space, which only memory-mapped access reaches whole. */
export const EXTENDED_CONFIG_BYTES = 4096;

interface Hook {
  readonly from: number;
  readonly to: number;
  readonly run: () => void;
}

/** Vendor and device. */
const FIXED_BYTES = 4;

export class ConfigSpace {
  readonly bytes: Uint8Array;
  readonly #initial: Uint8Array;
  readonly #writable: Uint8Array;
  readonly #clearing: Uint8Array;
  readonly #hooks: Hook[] = [];
  readonly #readHooks: Hook[] = [];

  constructor(bytes: typeof CONFIG_BYTES | typeof EXTENDED_CONFIG_BYTES = CONFIG_BYTES) {
    this.bytes = new Uint8Array(bytes);
    this.#initial = new Uint8Array(bytes);
    this.#writable = new Uint8Array(bytes);
    this.#clearing = new Uint8Array(bytes);
  }

  get size(): number {
    return this.bytes.length;
  }

  // ## The device's side

  load(offset: number, width: ConfigWidth): number {
    return get(this.bytes, offset, width);
  }

  /** Changes a value regardless of the rules; after a reset it is what {@link preset} made it. */
  store(offset: number, width: ConfigWidth, value: number): void {
    put(this.bytes, offset, width, value);
  }

  /** Sets bits, or clears them. */
  flag(offset: number, width: ConfigWidth, mask: number, on: boolean): void {
    const value = this.load(offset, width);
    this.store(offset, width, on ? value | mask : value & ~mask);
  }

  /** Value now and after every reset. */
  preset(offset: number, width: ConfigWidth, value: number): void {
    put(this.bytes, offset, width, value);
    put(this.#initial, offset, width, value);
  }

  /** Bits that software may change; replaces what was said of these bytes before. */
  allow(offset: number, width: ConfigWidth, mask: number): void {
    put(this.#writable, offset, width, mask);
  }

  /** Bits that software clears by writing ones. */
  allowClear(offset: number, width: ConfigWidth, mask: number): void {
    put(this.#clearing, offset, width, mask);
  }

  /** Takes values and rules from a register table. No register of configuration space is wider than a dword. */
  declare(table: RegisterTable): void {
    for (const row of Object.values(table.rows)) {
      const width = row.bytes as ConfigWidth;
      for (let index = 0; index < (row.count ?? 1); index++) {
        const offset = row.offset + index * (row.stride ?? row.bytes);
        this.preset(offset, width, row.reset ?? 0);
        this.allow(offset, width, row.access === 'rw' ? (row.writable ?? 0xffff_ffff) : 0);
        this.allowClear(offset, width, row.access === 'rw1c' ? (row.writable ?? 0xffff_ffff) : 0);
      }
    }
  }

  /** Calls `run` after each write by software that touches any of `bytes` bytes from `offset`, changed or not, and after a reset. */
  on(offset: number, bytes: number, run: () => void): void {
    this.#hooks.push({ from: offset, to: offset + bytes, run });
  }

  /**
   * Calls `run` before each read by software that touches any of `bytes` bytes from `offset`: for a register whose value is made when it is asked
   * for.
   */
  before(offset: number, bytes: number, run: () => void): void {
    this.#readHooks.push({ from: offset, to: offset + bytes, run });
  }

  reset(): void {
    this.bytes.set(this.#initial);
    for (const { run } of this.#hooks) run();
  }

  // ## Software's side
  //
  // A dword that lies across the end reads ones there, as if it went on in a function that does not exist.

  read(offset: number, width: ConfigWidth): number {
    for (const { from, to, run } of this.#readHooks) if (offset < to && from < offset + width) run();
    let value = 0;
    for (let at = width - 1; at >= 0; at--) value = (value << 8) | (this.bytes[offset + at] ?? 0xff);
    return value >>> 0;
  }

  // @clause pci.read-only
  write(offset: number, width: ConfigWidth, value: number): void {
    const end = Math.min(offset + width, this.bytes.length);
    for (let at = offset; at < end; at++) {
      const byte = (value >>> (8 * (at - offset))) & 0xff;
      const writable = this.#writable[at] as number;
      const old = this.bytes[at] as number;
      this.bytes[at] = ((old & ~writable) | (byte & writable)) & ~(byte & (this.#clearing[at] as number));
    }
    for (const { from, to, run } of this.#hooks) if (offset < to && from < end) run();
  }

  // ## State
  //
  // Rules are made with the device. What they protect from software is protected from a file too: who the device is, and which capabilities it has.

  static readonly STATE = describe<ConfigSpace>(
    'configuration space',
    1,
    {
      bytes: {
        text: 'as many as there are',
        save: (space, out) => out.bytes(space.bytes),
        load(space, from) {
          const bytes = from.bytes(space.size);
          for (const [at, byte] of bytes.entries()) {
            const fixed = at < FIXED_BYTES ? 0xff : 0;
            if ((byte ^ (space.bytes[at] as number)) & fixed) throw new StateError(`byte ${at} says that this is another device`);
          }
          return () => space.bytes.set(bytes);
        },
      },
    },
    (space) => {
      for (const { run } of space.#hooks) run();
    },
  );
}

function get(bytes: Uint8Array, offset: number, width: ConfigWidth): number {
  let value = 0;
  for (let at = width - 1; at >= 0; at--) value = (value << 8) | (bytes[offset + at] as number);
  return value >>> 0;
}

function put(bytes: Uint8Array, offset: number, width: ConfigWidth, value: number): void {
  for (let at = 0; at < width; at++) bytes[offset + at] = (value >>> (8 * at)) & 0xff;
}

// # Memory that two parties share
//
// A ring is memory that a driver and a device both read and write, with nobody in between. The device sees it through the machine's map: an address of the
// guest's is a place in one of the VMM's allocations, or nothing. A ring looks its places up once, when it is enabled, and then reads and writes the bytes
// themselves. A buffer is looked up each time, since the driver names another one each time.
//
// The device's side must tell somebody what it has written: a processor may have decoded instructions there, and whoever copies a running machine keeps a list of
// changed pages. A store through a view goes past everybody, so the ring says it.

/** What a device wants to do with a piece of memory. */
export type DmaAccess = 'read' | 'write';

/** A machine's memory, as a device sees it: addresses are what the driver wrote into the ring. */
export interface DeviceMemory {
  /**
   * The RAM behind `[address, address + bytes)`: the very bytes, not a copy. Usually one piece; several where neighbours for the driver are not neighbours here.
   * Null unless all of it is RAM (that may be written, for `write`). No bytes are no pieces.
   */
  map(address: number, bytes: number, access: DmaAccess): readonly Uint8Array[] | null;
  /** The device has stored something there. */
  written(address: number, bytes: number): void;
}

/** Memory that is one array of bytes from address `base` on: a test's, a browser's, a driver's and a device's in one process. */
export class FlatMemory implements DeviceMemory {
  readonly bytes: Uint8Array;
  readonly base: number;

  constructor(bytes: Uint8Array, base = 0) {
    this.bytes = bytes;
    this.base = base;
  }

  map(address: number, bytes: number, _access: DmaAccess): readonly Uint8Array[] | null {
    const at = address - this.base;
    if (!(at >= 0 && bytes >= 0 && at + bytes <= this.bytes.length)) return null;
    return bytes === 0 ? [] : [this.bytes.subarray(at, at + bytes)];
  }

  written(): void {}
}

// # What a driver needs of its machine
//
// A driver touches a machine in three ways. It reads and writes registers, which somebody answers. It has memory that the device can see too: that is
// where the rings are, and no one answers there, a store is a store. And it may be interrupted. Written against these three and nothing else, the
// driver's half of virtio runs in a test over an array, on a paused PC whose processor never executes anything, and against a device in another
// thread.

import { ERRNO, Errno } from '../../02-kvm-objects/errno.ts';

// Virtio has fields of 64 bits and no access of 64 bits: a driver goes to the halves, one after the other, because a 32-bit processor could not do
// otherwise. So there is no width of 8 here.
// @clause virtio.pci.dri.config-access-width-equals-field
// @clause virtio.pci.dri.64-bit-field-halves-can

/** Width of a register access, in bytes. */
export type RegisterWidth = 1 | 2 | 4;

/** One address space of registers: ports, or memory that is not RAM. Values are unsigned. */
export interface RegisterSpace {
  read(address: number, width: RegisterWidth): number;
  write(address: number, width: RegisterWidth, value: number): void;
}

/** Memory that driver and device both see. What Linux calls a DMA mapping: an address for the device, bytes for the driver. */
export interface DmaBuffer {
  /** What the device is told. */
  readonly address: number;
  /** What the driver sees. */
  readonly bytes: Uint8Array;
}

/** Memory that a driver may take pieces of. */
export interface DriverMemory {
  /**
   * A zeroed piece whose address is a multiple of `align`, a power of two; its bytes are aligned likewise, at least to 8 where `align` is.
   * @throws Errno ENOMEM
   */
  allocate(bytes: number, align?: number): DmaBuffer;
  free(buffer: DmaBuffer): void;
}

/** A message-signalled interrupt: what the device writes, and where. */
export interface InterruptMessage {
  readonly address: number;
  readonly data: number;
}

/** Messages that a driver may hand out to its devices. */
export interface InterruptMessages {
  /** A message of its own for one vector; null when there are no more. */
  connect(handler: () => void): InterruptMessage | null;
  disconnect(message: InterruptMessage): void;
}

/** A machine, to its drivers. */
export interface DriverBus {
  readonly ports: RegisterSpace | null;
  readonly memory: RegisterSpace | null;
  readonly dma: DriverMemory;
  readonly messages: InterruptMessages | null;
  /** Called again and again while a driver waits for a device: time passes, another thread runs, messages arrive. */
  relax(): void;
  /** How often a driver looks for something that a device was told to do before it gives the device up; ten thousand times, when absent. */
  readonly patience?: number;
}

const PATIENCE = 10_000;

/** Waits until `done`; false when the device has not come to it in so many looks. A device that never answers costs a bounded time. */
export function waitUntil(bus: Pick<DriverBus, 'relax' | 'patience'>, done: () => boolean): boolean {
  const { patience = PATIENCE } = bus;
  for (let look = 0; look < patience; look++) {
    if (done()) return true;
    bus.relax();
  }
  return done();
}

/** The part `[from, to)` of a buffer. */
export const slice = ({ address, bytes }: DmaBuffer, from: number, to = bytes.length): DmaBuffer => ({
  address: address + from,
  bytes: bytes.subarray(from, to),
});

// ## An arena
//
// The simplest memory to take pieces of is one array of bytes whose first address is known: RAM between two addresses, or a shared buffer. Holes are
// kept sorted by address; a piece comes out of the first that is large enough, and goes back by melting into its neighbours.

interface Hole {
  start: number;
  bytes: number;
}

/** The next multiple of `align`. */
export const roundUp = (value: number, align: number): number => Math.ceil(value / align) * align;

/** {@link DriverMemory} in one array of bytes. */
export class MemoryArena implements DriverMemory {
  readonly base: number;
  readonly #bytes: Uint8Array;
  readonly #holes: Hole[];
  readonly #taken = new Map<number, number>();

  /** @throws Errno EINVAL when address and bytes are not aligned alike */
  constructor(bytes: Uint8Array, base: number) {
    if ((bytes.byteOffset - base) % 8 !== 0) throw new Errno('arena', ERRNO.EINVAL, 'a view of these bytes would be crooked');
    this.#bytes = bytes;
    this.base = base;
    this.#holes = [{ start: base, bytes: bytes.length }];
  }

  /** How much is not taken. */
  get freeBytes(): number {
    return this.#holes.reduce((sum, hole) => sum + hole.bytes, 0);
  }

  allocate(bytes: number, align = 16): DmaBuffer {
    const wanted = roundUp(Math.max(bytes, 1), 8);
    for (const [index, hole] of this.#holes.entries()) {
      const start = roundUp(hole.start, align);
      const end = hole.start + hole.bytes;
      if (start + wanted > end) continue;
      const rest = [
        { start: hole.start, bytes: start - hole.start },
        { start: start + wanted, bytes: end - start - wanted },
      ];
      this.#holes.splice(index, 1, ...rest.filter((each) => each.bytes > 0));
      this.#taken.set(start, wanted);
      const at = start - this.base;
      this.#bytes.fill(0, at, at + wanted);
      return { address: start, bytes: this.#bytes.subarray(at, at + bytes) };
    }
    throw new Errno('allocate', ERRNO.ENOMEM, `${bytes} bytes`);
  }

  /** @throws Errno EINVAL for what was not allocated */
  free({ address }: DmaBuffer): void {
    const bytes = this.#taken.get(address);
    if (bytes === undefined) throw new Errno('free', ERRNO.EINVAL, `nothing was allocated at 0x${address.toString(16)}`);
    this.#taken.delete(address);
    let index = this.#holes.findIndex((hole) => hole.start > address);
    if (index < 0) index = this.#holes.length;
    const before = this.#holes[index - 1];
    const after = this.#holes[index];
    const joinsBefore = before !== undefined && before.start + before.bytes === address;
    const joinsAfter = after !== undefined && address + bytes === after.start;
    if (joinsBefore) before.bytes += bytes + (joinsAfter ? after.bytes : 0);
    else if (joinsAfter) {
      after.start = address;
      after.bytes += bytes;
    } else this.#holes.splice(index, 0, { start: address, bytes });
    if (joinsBefore && joinsAfter) this.#holes.splice(index, 1);
  }
}

// ## Interrupts without a processor
//
// An interrupt message is a store of four bytes. Where no processor waits for one, it can be pointed at RAM, and the driver looks at the cell: that
// is how device tests drive a machine that is paused, and it is a fair picture of what an interrupt *is*.

/** Messages that are cells of memory; {@link poll} calls the handlers of those that were written. */
export class MessageCells implements InterruptMessages {
  readonly #memory: DriverMemory;
  readonly #cells: { readonly cell: DmaBuffer; readonly handler: () => void }[] = [];

  constructor(memory: DriverMemory) {
    this.#memory = memory;
  }

  connect(handler: () => void): InterruptMessage {
    const cell = this.#memory.allocate(4, 8);
    this.#cells.push({ cell, handler });
    return { address: cell.address, data: 1 };
  }

  disconnect({ address }: InterruptMessage): void {
    const index = this.#cells.findIndex(({ cell }) => cell.address === address);
    if (index >= 0) for (const { cell } of this.#cells.splice(index, 1)) this.#memory.free(cell);
  }

  poll(): void {
    for (const { cell, handler } of [...this.#cells]) {
      if (cell.bytes[0] === 0) continue;
      cell.bytes.fill(0);
      handler();
    }
  }
}

// # Devices inside the kernel
//
// An access that no slot backs need not leave the kernel. Before KVM makes it an exit, it asks whether anything of its own is there: an interrupt
// controller, or an eventfd that somebody wants signalled when the guest writes to an address. `struct kvm_io_bus` is a sorted array of ranges; more
// than one device may be at an address (doorbells told apart by the value written), and the first that accepts an access has it.
//
// A device is asked for whole accesses only. One that sticks out of its range goes to user space, in one piece.

/** A device in the kernel. */
export interface KernelDevice {
  /** Null: not for this device. */
  read(address: number, bytes: number): bigint | null;
  /** False: not for this device. */
  write(address: number, bytes: number, value: bigint): boolean;
}

interface Entry {
  readonly base: number;
  /** 0: any access that begins at `base`, of any width. */
  readonly bytes: number;
  readonly device: KernelDevice;
}

/** NR_IOBUS_DEVS: how many devices there may be, besides eventfds, which have the limit on descriptors. */
const MAX_DEVICES = 1000;

export class IoBus {
  #entries: readonly Entry[] = [];
  #limited = 0;

  /** False when there are too many. */
  add(base: number, bytes: number, device: KernelDevice, { limited = true }: { limited?: boolean } = {}): boolean {
    if (limited && this.#limited >= MAX_DEVICES) return false;
    if (limited) this.#limited++;
    this.#entries = [...this.#entries, { base, bytes, device }].sort((a, b) => a.base - b.base || a.bytes - b.bytes);
    return true;
  }

  remove(device: KernelDevice, { limited = true }: { limited?: boolean } = {}): void {
    const left = this.#entries.filter((entry) => entry.device !== device);
    if (limited && left.length < this.#entries.length) this.#limited--;
    this.#entries = left;
  }

  get size(): number {
    return this.#entries.length;
  }

  /** The value, or null when nobody in the kernel answers. Linux: `kvm_io_bus_read()`. */
  read(address: number, bytes: number): bigint | null {
    for (const entry of this.#entries) {
      if (!covers(entry, address, bytes)) continue;
      const value = entry.device.read(address, bytes);
      if (value !== null) return BigInt.asUintN(8 * bytes, value);
    }
    return null;
  }

  /** Whether anybody took it. Linux: `kvm_io_bus_write()`. */
  write(address: number, bytes: number, value: bigint): boolean {
    const written = BigInt.asUintN(8 * bytes, value);
    for (const entry of this.#entries) if (covers(entry, address, bytes) && entry.device.write(address, bytes, written)) return true;
    return false;
  }
}

const covers = ({ base, bytes }: Entry, address: number, width: number): boolean =>
  bytes === 0 ? address === base : address >= base && address + width <= base + bytes;

/** The buses of one VM. */
export interface IoBuses {
  readonly mmio: IoBus;
  readonly pio: IoBus;
  /** Addresses where any access means the same: looked up without decoding the instruction, where the exit itself says that it is a device's. */
  readonly fastMmio: IoBus;
}

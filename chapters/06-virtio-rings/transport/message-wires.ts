// # An interrupt that starts as a sum
//
// The way back, past the VMM's usual one. A device that interrupts by message makes a request, KVM_SIGNAL_MSI, with the address and the value that its
// driver chose. With an *irqfd* the kernel is told address and value once: they are put behind a number of its routing table, and the number is tied to
// a counter. From then on to add one to the counter is to send the message. In one process that saves nothing, one system call stands for another.
// What it buys is that the counter can be given away: a device in another process, or in the kernel, interrupts the guest and knows nothing of
// addresses, values or masks.
//
// So whatever decides about a message has to be decided before it. The driver masks a vector: the counter is untied, and what the device has to say is
// remembered where the driver looks for it, in the table of pending bits. It writes another address or value: the number gets them. It takes away bus
// mastering, or switches MSI-X off, or gives a queue another vector: likewise. QEMU does the same in `kvm_virtio_pci_vector_use()` and its neighbours.
// All of these are writes to registers, so they come here one after the other, and each is finished before the driver's next instruction.

import { IRQFD_FLAG, KvmIrqfd } from '../../02-kvm-objects/abi/eventfd.ts';
import { EFD } from '../../02-kvm-objects/kernel.ts';
import type { Vm } from '../../02-kvm-objects/kvm.ts';
import type { GsiTable, Message } from '../../05-pio-mmio/interrupts/gsi-table.ts';

/** What the wires ask of their function. */
export interface MessageSource {
  /** Vectors that are in use at this moment. */
  vectors(): ReadonlySet<number>;
  /** What a vector sends; null while it may send nothing, or no interrupt. */
  message(vector: number): Message | null;
}

interface Wire {
  readonly fd: number;
  /** The number of its message, while it has one. */
  gsi: number | null;
  message: Message | null;
  tied: boolean;
}

const ONE = new Uint8Array(BigUint64Array.of(1n).buffer);
const COUNTER_BYTES = 8;

/** The counters of one function's vectors. */
export class MessageWires {
  /** Messages that went this way. */
  sent = 0;
  readonly #source: MessageSource;
  readonly #gsis: GsiTable;
  readonly #wires = new Map<number, Wire>();
  #vm: Vm | null = null;

  constructor(source: MessageSource, gsis: GsiTable) {
    this.#source = source;
    this.#gsis = gsis;
  }

  /** There is a VM. Without what is needed in its kernel, everything stays as it is. */
  connect(vm: Vm): void {
    if (this.#gsis.hasIrqfd) this.#vm = vm;
    this.refresh();
  }

  /** How many vectors are tied at this moment. */
  get tied(): number {
    return [...this.#wires.values()].filter(({ tied }) => tied).length;
  }

  /** Sends a vector's message. False: it is not tied, and has to go the long way. */
  send(vector: number): boolean {
    const wire = this.#wires.get(vector);
    if (!wire?.tied || this.#vm?.kernel.write(wire.fd, ONE) !== COUNTER_BYTES) return false;
    this.sent++;
    return true;
  }

  /** Something that decides about messages has changed. */
  refresh(): void {
    const vm = this.#vm;
    if (!vm) return;
    const used = this.#source.vectors();
    for (const [vector, wire] of this.#wires) if (!used.has(vector)) this.#release(vm, vector, wire);
    for (const vector of used) this.#settle(vm, vector);
  }

  #settle(vm: Vm, vector: number): void {
    const message = this.#source.message(vector);
    const wire = this.#wires.get(vector);
    if (!message) {
      if (wire) this.#untie(vm, wire);
      return;
    }
    if (wire?.tied && wire.message?.address === message.address && wire.message.data === message.data) return;
    const there = wire ?? this.#make(vm, vector);
    if (there && this.#route(there, message)) this.#tie(vm, there);
    else if (there) this.#untie(vm, there);
  }

  #make(vm: Vm, vector: number): Wire | null {
    const fd = vm.kernel.eventfd(0, EFD.EFD_NONBLOCK | EFD.EFD_CLOEXEC);
    if (fd < 0) return null; // no more descriptors: the request still works
    const wire: Wire = { fd, gsi: null, message: null, tied: false };
    this.#wires.set(vector, wire);
    return wire;
  }

  // A table is replaced while interrupts may be on their way; a number that is tied always leads somewhere.

  #route(wire: Wire, message: Message): boolean {
    if (wire.gsi === null) wire.gsi = this.#gsis.add(message);
    else if (!this.#gsis.change(wire.gsi, message)) return false;
    wire.message = message;
    return wire.gsi !== null;
  }

  #tie(vm: Vm, wire: Wire): void {
    wire.tied ||= this.#request(vm, wire, 0);
  }

  #untie(vm: Vm, wire: Wire): void {
    if (wire.tied) this.#request(vm, wire, IRQFD_FLAG.KVM_IRQFD_FLAG_DEASSIGN);
    wire.tied = false;
  }

  #request(vm: Vm, { fd, gsi }: Wire, flags: number): boolean {
    return vm.tryIoctl('KVM_IRQFD', KvmIrqfd.encode({ fd, gsi: gsi ?? 0, flags })) === 0;
  }

  #release(vm: Vm, vector: number, wire: Wire): void {
    this.#untie(vm, wire);
    if (wire.gsi !== null) this.#gsis.remove(wire.gsi);
    vm.kernel.close(wire.fd);
    this.#wires.delete(vector);
  }

  /** Gives everything back. */
  dispose(): void {
    const vm = this.#vm;
    if (vm) for (const [vector, wire] of [...this.#wires]) this.#release(vm, vector, wire);
    this.#vm = null;
  }
}

// # Vectors
//
// With MSI-X each queue can have an interrupt of its own, which says by itself whose it is, so that nobody has to ask the device. There may be fewer
// vectors than queues, and the device may refuse a mapping for want of memory. So a driver has plans, each more modest than the one before: one for
// each queue and one for the configuration; one for all queues and one for the configuration; one for everything; and at last the pin.

import { CAP_MSIX, MSIX_CAPABILITY, MSIX_ENTRY } from '../../../05-pio-mmio/pci/msix.ts';
import { NO_VECTOR } from '../../transport/common-config.ts';
import type { InterruptMessage } from '../bus.ts';
import type { InterruptHandlers } from '../transport.ts';
import type { AnyVirtqueue } from '../virtqueue.ts';
import type { PciFunctionAccess, Window } from './pci-function.ts';

const ENABLE = 1 << 15;
const FUNCTION_MASK = 1 << 14;
const ENTRY_BYTES = 16;
const { rows: CAP } = MSIX_CAPABILITY;
const { rows: ENTRY } = MSIX_ENTRY;

/** The vector registers of a device, whose place depends on the transport. A mapping that failed reads back as {@link NO_VECTOR}. */
export interface VectorRegisters {
  setConfigVector(vector: number): number;
  setQueueVector(index: number, vector: number): number;
}

/** Which vector each has. */
interface Plan {
  readonly count: number;
  readonly config: number;
  queue(position: number): number;
}

export class PciVectors {
  readonly #access: PciFunctionAccess;
  readonly #at: number | null;
  readonly #table: Window | null;
  /** Entries of the table. */
  readonly size: number;
  #messages: InterruptMessage[] = [];
  #vectors = new Map<number, number>();

  constructor(access: PciFunctionAccess) {
    this.#access = access;
    this.#at = access.capabilities().find(({ id }) => id === CAP_MSIX)?.at ?? null;
    const where = this.#at === null ? 0 : access.read(this.#at + CAP.TABLE.offset, 4);
    const bar = this.#at === null ? null : access.bar(where & 7);
    // Whatever the register says, entries are used only as far as there is memory for them.
    // @clause virtio.pci.dri.table-sizes-from-0-through
    const entries = this.#at === null ? 0 : (access.read(this.#at + CAP.CONTROL.offset, 2) & 0x7ff) + 1;
    const offset = where - (where & 7);
    this.size = bar ? Math.max(0, Math.min(entries, Math.floor((bar.bytes - offset) / ENTRY_BYTES))) : 0;
    this.#table = bar && this.size > 0 ? { ...bar, base: bar.base + offset } : null;
  }

  /** Whether messages are in use instead of the pin. */
  get active(): boolean {
    return this.#messages.length > 0;
  }

  /** The vector of a queue, for setting it up again. */
  of(index: number): number {
    return this.#vectors.get(index) ?? NO_VECTOR;
  }

  /** Maps what can be mapped. Afterwards the pin is in use if nothing else is. */
  connect(registers: VectorRegisters, queues: readonly AnyVirtqueue[], handlers: InterruptHandlers): void {
    const called = queues.filter((queue) => queue.callback !== null);
    const plans: Plan[] = [
      { count: called.length + 1, config: 0, queue: (position) => position + 1 },
      { count: 2, config: 0, queue: () => 1 },
      { count: 1, config: 0, queue: () => 0 },
    ];
    // @clause virtio.pci.dri.mapping-failure-retry-fewer-disable
    // @clause virtio.pci.dri.table-size-can-serve-hint
    // @clause virtio.pci.dri.mapping-never-targets-vector-past
    for (const plan of plans) {
      if (plan.count <= this.size && this.#try(plan, registers, called, handlers)) return;
      this.disconnect();
    }
  }

  #try(plan: Plan, registers: VectorRegisters, called: readonly AnyVirtqueue[], handlers: InterruptHandlers): boolean {
    const { messages } = this.#access.bus;
    if (!messages) return false;
    this.#control(ENABLE | FUNCTION_MASK);
    for (let vector = 0; vector < plan.count; vector++) {
      const own = called.filter((_, position) => plan.queue(position) === vector);
      // @clause virtio.pci.dri.shared-interrupt-config-change-queues
      const message = messages.connect(() => {
        if (plan.config === vector) handlers.config();
        for (const queue of own) handlers.used(queue);
      });
      if (!message) return false;
      this.#messages.push(message);
      this.#program(vector, message);
    }
    this.#control(ENABLE);
    // @clause virtio.pci.dri.mapping-verified-reading-vector-register
    if (registers.setConfigVector(plan.config) !== plan.config) return false;
    for (const [position, { index }] of called.entries()) {
      const vector = plan.queue(position);
      if (registers.setQueueVector(index, vector) !== vector) return false;
      this.#vectors.set(index, vector);
    }
    return true;
  }

  #program(vector: number, { address, data }: InterruptMessage): void {
    const { space, base } = this.#table as Window;
    const at = base + vector * ENTRY_BYTES;
    space.write(at + ENTRY.ADDRESS.offset, 4, address % 2 ** 32);
    space.write(at + ENTRY.ADDRESS_UPPER.offset, 4, Math.floor(address / 2 ** 32));
    space.write(at + ENTRY.DATA.offset, 4, data);
    space.write(at + ENTRY.CONTROL.offset, 4, 0);
  }

  #control(bits: number): void {
    if (this.#at === null) return;
    const register = this.#at + CAP.CONTROL.offset;
    this.#access.write(register, 2, (this.#access.read(register, 2) & ~(ENABLE | FUNCTION_MASK)) | bits);
  }

  /** Back to the pin. */
  disconnect(): void {
    this.#control(0);
    for (const message of this.#messages) this.#access.bus.messages?.disconnect(message);
    this.#messages = [];
    this.#vectors.clear();
  }
}

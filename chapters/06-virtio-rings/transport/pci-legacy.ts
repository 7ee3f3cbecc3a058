// # The registers from before
//
// The first virtio devices had twenty bytes of ports and a configuration space behind them. A queue has a fixed length and one address, a page
// number, from which its three parts follow; features are 32; there is no FEATURES_OK. And with MSI-X switched on, two vector registers are pushed in
// between, so that the configuration begins {{LEGACY_VECTOR_BYTES}} bytes later: where a field is depends on a bit in another register of another
// capability.
//
// It was not all bad. To a hypervisor an OUT is an exit with the port, the width and the value in the exit information; a store to memory is a page
// fault, after which somebody has to decode the instruction. Kicks by port were measurably cheaper, which is why a modern device may still offer a
// doorbell among the ports.
//
// ::layout LEGACY_PCI -- The legacy registers, without MSI-X.

import type { Registers, Width } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';
import { type RegisterActions, RegisterFile, registerTable } from '../../05-pio-mmio/registers.ts';
import type { VirtioDevice } from '../device.ts';
import { legacyPlace } from '../rings/layout.ts';
import type { VirtQueue } from '../virt-queue.ts';
import { mapped, NO_VECTOR, type VectorTable } from './common-config.ts';
import type { IsrStatus } from './isr.ts';

/** Legacy virtio header. */
// biome-ignore format: table
export const LEGACY_PCI = registerTable('virtio-pci-legacy', 'virtio 1.4, Legacy Interfaces: A Note on PCI Device Layout', {
  device_features: { offset: 0,  bytes: 4, access: 'ro', text: 'what the device offers' },
  driver_features: { offset: 4,  bytes: 4, access: 'rw', text: 'what the driver takes' },
  queue_address:   { offset: 8,  bytes: 4, access: 'rw', text: 'page number of the selected queue; 0: none' },
  queue_size:      { offset: 12, bytes: 2, access: 'ro', text: 'its length, which is not the driver’s choice' },
  queue_select:    { offset: 14, bytes: 2, access: 'rw', text: 'which queue' },
  queue_notify:    { offset: 16, bytes: 2, access: 'rw', text: 'the doorbell: the number of a queue' },
  device_status:   { offset: 18, bytes: 1, access: 'rw', text: 'how far the driver has come; 0 resets' },
  isr_status:      { offset: 19, bytes: 1, access: 'rc', text: 'why the line was pulled; reading clears' },
});

/** The two registers that are behind them while MSI-X is on. */
// biome-ignore format: table
export const LEGACY_VECTORS = registerTable('virtio-pci-legacy-vectors', 'virtio 1.4, Legacy Interfaces: A Note on PCI Device Layout', {
  config_msix_vector: { offset: 0, bytes: 2, access: 'rw', text: 'vector of configuration changes' },
  queue_msix_vector:  { offset: 2, bytes: 2, access: 'rw', text: 'vector of the selected queue' },
});

/** Length of the registers without vectors. */
export const LEGACY_BYTES = 20;
/** Length of the vector registers. */
export const LEGACY_VECTOR_BYTES = 4;
/** Unit of a queue's address, and alignment of its used ring. */
export const LEGACY_PAGE_BYTES = 4096;
/** Offset of the doorbell. */
export const LEGACY_NOTIFY = LEGACY_PCI.rows.queue_notify.offset;

// ## Three parts from one address
//
// The descriptor table is at the page, the available ring directly behind it, and the used ring at the next boundary.

/** Places a legacy queue at `address`; 0 takes it away. */
export function placeLegacy(device: VirtioDevice, queue: VirtQueue, address: number, align: number): void {
  device.stopQueue(queue.index);
  const half = (at: number, value: number): void => {
    queue.setArea(at, value >>> 0);
    queue.setArea(at + 1, Math.floor(value / 2 ** 32));
  };
  const { desc, driver, device: used } = legacyPlace(queue.size, address, align);
  half(0, desc);
  half(2, driver);
  half(4, address === 0 ? 0 : used);
  if (address !== 0) queue.enable();
}

/** The address that {@link placeLegacy} was given; 0 for a queue that has none. */
export const legacyAddress = (queue: VirtQueue | undefined): number =>
  queue?.enabled ? (queue.areas[0] as number) + (queue.areas[1] as number) * 2 ** 32 : 0;

interface LegacyOptions {
  readonly isr: IsrStatus;
  /** Whether the vector registers are there at this moment. */
  readonly msixEnabled: () => boolean;
}

/** The ports of one device. */
export class LegacyPci implements Registers {
  readonly name = LEGACY_PCI.device;
  readonly #device: VirtioDevice;
  readonly #header: Registers;
  readonly #vectors: Registers;
  readonly #msixEnabled: () => boolean;
  #select = 0;

  constructor(device: VirtioDevice, table: VectorTable, { isr, msixEnabled }: LegacyOptions) {
    this.#device = device;
    this.#msixEnabled = msixEnabled;
    const queue = (): VirtQueue | undefined => device.queues[this.#select];
    const asLegacy = (write: (value: number) => void): NonNullable<RegisterActions['write']> => {
      return (value) => {
        device.legacy = true;
        write(value);
      };
    };
    this.#header = new RegisterFile(LEGACY_PCI, {
      device_features: { read: () => Number(device.offerTo(true)) },
      driver_features: {
        read: () => Number(device.driverFeatures & 0xffff_ffffn),
        write: asLegacy((value) => device.setDriverFeatures(0, value)),
      },
      queue_address: {
        read: () => legacyAddress(queue()) / LEGACY_PAGE_BYTES,
        write: asLegacy((value) => {
          const chosen = queue();
          if (chosen && device.legacy) placeLegacy(device, chosen, value * LEGACY_PAGE_BYTES, LEGACY_PAGE_BYTES);
        }),
      },
      queue_size: { read: () => queue()?.maxSize ?? 0 },
      queue_select: {
        read: () => this.#select,
        write: (value) => {
          this.#select = value;
        },
      },
      queue_notify: { write: (value) => device.kick(value) },
      device_status: { read: () => device.status, write: asLegacy((value) => device.setStatus(value)) },
      isr_status: { read: () => isr.take() },
    });
    this.#vectors = new RegisterFile(LEGACY_VECTORS, {
      config_msix_vector: {
        read: () => table.configVector,
        write: (value) => {
          table.configVector = mapped(table, value);
        },
      },
      queue_msix_vector: {
        read: () => queue()?.vector ?? NO_VECTOR,
        write(value) {
          const chosen = queue();
          if (!chosen) return;
          chosen.vector = mapped(table, value);
          device.notifier.queueChanged?.(chosen.index);
        },
      },
    });
  }

  /** The selector too is as at power-on. */
  reset(): void {
    this.#select = 0;
  }

  static readonly STATE = describe<LegacyPci>('virtio-pci legacy registers', 1, {
    select: field(
      kind.u16,
      (legacy) => legacy.#select,
      (legacy, select) => {
        legacy.#select = select;
      },
    ),
  });

  /** Where the configuration space begins at this moment. */
  get configOffset(): number {
    return LEGACY_BYTES + (this.#msixEnabled() ? LEGACY_VECTOR_BYTES : 0);
  }

  // An access that lies across two of the three parts is one of bytes.

  read(offset: number, width: Width): bigint {
    const part = this.#part(offset, width);
    if (part) return part.read(width);
    let value = 0n;
    for (let at = width - 1; at >= 0; at--) value = (value << 8n) | this.read(offset + at, 1);
    return value;
  }

  write(offset: number, width: Width, value: bigint): void {
    const part = this.#part(offset, width);
    if (part) part.write(width, value);
    else for (let at = 0; at < width; at++) this.write(offset + at, 1, (value >> BigInt(8 * at)) & 0xffn);
  }

  #part(offset: number, width: Width): { read(width: Width): bigint; write(width: Width, value: bigint): void } | null {
    const { configOffset } = this;
    const within = (registers: Registers, start: number) => ({
      read: (bytes: Width) => registers.read(offset - start, bytes),
      write: (bytes: Width, value: bigint) => registers.write(offset - start, bytes, value),
    });
    if (offset + width <= LEGACY_BYTES) return within(this.#header, 0);
    if (offset >= LEGACY_BYTES && offset + width <= configOffset) return within(this.#vectors, LEGACY_BYTES);
    if (offset < configOffset || width === 8) return null;
    return {
      read: (bytes) => BigInt(this.#device.readConfig(offset - configOffset, bytes as 1 | 2 | 4)),
      write: (bytes, value) => this.#device.writeConfig(offset - configOffset, bytes as 1 | 2 | 4, Number(value)),
    };
  }
}

// # PCI, before the standard
//
// All registers are ports at a fixed place, in the order in which somebody thought of them in 2007. A queue has a size that the driver takes as it is
// and one address, in pages. Features are 32. Nobody asks the device whether it can work with what was chosen. And where the configuration begins
// depends on whether MSI-X is on.

import { LEGACY_BYTES, LEGACY_PAGE_BYTES, LEGACY_PCI, LEGACY_VECTOR_BYTES, LEGACY_VECTORS } from '../../transport/pci-legacy.ts';
import type { DriverBus, RegisterWidth } from '../bus.ts';
import type { InterruptHandlers, VirtioTransport } from '../transport.ts';
import type { AnyVirtqueue } from '../virtqueue.ts';
import type { PciFunctionAccess, Window } from './pci-function.ts';
import { virtioType } from './pci-modern.ts';
import { PciVectors } from './pci-vectors.ts';

const { rows: R } = LEGACY_PCI;
const { rows: V } = LEGACY_VECTORS;

export class PciLegacyTransport implements VirtioTransport {
  readonly name: string;
  readonly bus: DriverBus;
  readonly deviceId: number;
  readonly vendorId: number;
  readonly legacy = true;
  readonly legacyAlign = LEGACY_PAGE_BYTES;
  readonly features = 0n;
  readonly vectors: PciVectors;
  readonly #ports: Window;

  private constructor(access: PciFunctionAccess, type: number, ports: Window) {
    this.name = access.name;
    this.bus = access.bus;
    this.deviceId = type;
    this.vendorId = access.vendorId;
    this.#ports = ports;
    this.vectors = new PciVectors(access);
  }

  /** The transport of a transitional or legacy function, or why it is none. */
  static probe(access: PciFunctionAccess): PciLegacyTransport | string {
    const found = virtioType(access);
    if (!found?.transitional) return 'no device with a legacy interface';
    access.enable();
    const bar = access.bar(0);
    if (!bar || bar.space !== access.bus.ports || bar.bytes < LEGACY_BYTES) return 'no legacy registers in its first region';
    return new PciLegacyTransport(access, found.type, bar);
  }

  #read({ offset, bytes }: { readonly offset: number; readonly bytes: 1 | 2 | 4 | 8 }): number {
    return this.#ports.space.read(this.#ports.base + offset, bytes as RegisterWidth);
  }
  #write({ offset, bytes }: { readonly offset: number; readonly bytes: 1 | 2 | 4 | 8 }, value: number): void {
    this.#ports.space.write(this.#ports.base + offset, bytes as RegisterWidth, value);
  }

  getStatus(): number {
    return this.#read(R.device_status);
  }
  setStatus(status: number): void {
    this.#write(R.device_status, status);
  }
  getFeatures(): bigint {
    return BigInt(this.#read(R.device_features));
  }
  setFeatures(features: bigint): void {
    this.#write(R.driver_features, Number(features & 0xffff_ffffn));
  }

  generation(): number {
    return 0;
  }
  get #configBase(): number {
    return LEGACY_BYTES + (this.vectors.active ? LEGACY_VECTOR_BYTES : 0);
  }
  get configBytes(): number {
    return this.#ports.bytes - this.#configBase;
  }
  readConfig(offset: number, width: RegisterWidth): number {
    return offset + width <= this.configBytes ? this.#read({ offset: this.#configBase + offset, bytes: width }) : 0;
  }
  writeConfig(offset: number, width: RegisterWidth, value: number): void {
    if (offset + width <= this.configBytes) this.#write({ offset: this.#configBase + offset, bytes: width }, value);
  }

  queueSize(index: number): number {
    this.#write(R.queue_select, index);
    return this.#read(R.queue_address) === 0 ? this.#read(R.queue_size) : 0;
  }

  connect(queues: readonly AnyVirtqueue[], handlers: InterruptHandlers): string | null {
    const vectorAt = (row: { readonly offset: number }) => ({ offset: LEGACY_BYTES + row.offset, bytes: 2 as const });
    const registers = {
      setConfigVector: (vector: number): number => {
        this.#write(vectorAt(V.config_msix_vector), vector);
        return this.#read(vectorAt(V.config_msix_vector));
      },
      setQueueVector: (index: number, vector: number): number => {
        this.#write(R.queue_select, index);
        this.#write(vectorAt(V.queue_msix_vector), vector);
        return this.#read(vectorAt(V.queue_msix_vector));
      },
    };
    this.vectors.connect(registers, queues, handlers);
    return queues.every((queue) => this.reconnect(queue)) ? null : 'a queue was not taken';
  }

  reconnect({ index, areas }: AnyVirtqueue): boolean {
    const page = areas.desc / LEGACY_PAGE_BYTES;
    if (!Number.isInteger(page) || page > 0xffff_ffff) return false;
    this.#write(R.queue_select, index);
    this.#write(R.queue_address, page);
    return this.#read(R.queue_address) === page;
  }

  resetQueue(): boolean {
    return false;
  }

  disconnect(): void {
    this.vectors.disconnect();
  }

  notify({ index }: AnyVirtqueue): void {
    this.#write(R.queue_notify, index);
  }

  isr(): number {
    return this.vectors.active ? 0 : this.#read(R.isr_status);
  }
}

// # Coalesced MMIO: writes that can wait
//
// Some registers are written much more often than their effect matters: one pixel after another, a packet's bytes. For a *zone* of such registers
// the kernel does not exit but notes the write in a ring, and the VMM reads the ring when it comes by for another reason. The ring is a page that the
// mapping of a vCPU has behind the port data: the third. It has {{COALESCED_MAX}} places, one of which stays empty. When it is full, the write exits like any other.
//
// Linux has one ring for each VM, and every vCPU's mapping shows it. A mapping here is one piece of memory and cannot show a page twice; so the ring is in
// the third page of the VM's first vCPU, which is where QEMU looks for it, and any vCPU's descriptor gives it when it is mapped by itself.

import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { KvmCoalescedMmio, KvmCoalescedMmioRing, KvmCoalescedMmioZone } from '../../02-kvm-objects/abi/eventfd.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import type { KernelDevice } from '../../02-kvm-objects/soft/io-bus.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { SoftVm } from '../../02-kvm-objects/soft/vm.ts';

/** KVM_COALESCED_MMIO_PAGE_OFFSET; also what KVM_CHECK_EXTENSION answers. */
export const COALESCED_PAGE = 2;
/** KVM_COALESCED_MMIO_MAX. */
export const COALESCED_MAX = Math.floor((PAGE_BYTES - KvmCoalescedMmioRing.bytes) / KvmCoalescedMmio.bytes);

interface Zone {
  readonly pio: number;
  readonly addr: number;
  readonly size: number;
  readonly device: KernelDevice;
}

const ring = KvmCoalescedMmioRing.fields;

/** The zones and the ring of one VM. */
export class CoalescedMmio {
  readonly #vm: SoftVm;
  #zones: readonly Zone[] = [];
  #page: Uint8Array | null = null;
  #view: DataView | null = null;

  constructor(vm: SoftVm) {
    this.#vm = vm;
  }

  /** Shows the ring in a new vCPU's mapping. */
  attach(vcpu: SoftVcpu): void {
    this.#page ??= vcpu.run.subarray(COALESCED_PAGE * PAGE_BYTES, (COALESCED_PAGE + 1) * PAGE_BYTES);
    this.#view ??= new DataView(this.#page.buffer, this.#page.byteOffset, this.#page.length);
    vcpu.mappings.set(COALESCED_PAGE, this.#page);
  }

  /** A vCPU goes. With it may go the memory of the ring: its creation can fail after it was announced. */
  detach(vcpu: SoftVcpu): void {
    if (this.#page?.byteOffset !== vcpu.run.byteOffset + COALESCED_PAGE * PAGE_BYTES) return;
    this.#page = null;
    this.#view = null;
  }

  // @clause kvm.coalesced.ring
  /** KVM_REGISTER_COALESCED_MMIO. */
  register(view: DataView): number {
    const { addr, size, pio } = KvmCoalescedMmioZone.load(view);
    if (pio > 1) return -ERRNO.EINVAL;
    const base = Number(addr);
    const device: KernelDevice = { read: () => null, write: (address, bytes, value) => this.#note(pio, address, bytes, value) };
    const { pio: ports, mmio } = this.#vm.buses;
    if (!(pio ? ports : mmio).add(base, size, device)) return -ERRNO.ENOSPC;
    this.#zones = [...this.#zones, { pio, addr: base, size, device }];
    return 0;
  }

  // Zones that hold all of the one named go, and it is no error if there is none.
  /** KVM_UNREGISTER_COALESCED_MMIO. */
  unregister(view: DataView): number {
    const { addr, size, pio } = KvmCoalescedMmioZone.load(view);
    if (pio > 1) return -ERRNO.EINVAL;
    const base = Number(addr);
    const { pio: ports, mmio } = this.#vm.buses;
    this.#zones = this.#zones.filter((zone) => {
      if (zone.pio !== pio || !(base >= zone.addr && base + size <= zone.addr + zone.size)) return true;
      (pio ? ports : mmio).remove(zone.device);
      return false;
    });
    return 0;
  }

  // The VMM moves `first` and the kernel `last`. Both are in a page that the VMM can write to as it likes, so neither is believed to be in range.

  // @clause kvm.coalesced.ring
  #note(pio: number, address: number, bytes: number, value: bigint): boolean {
    const view = this.#view;
    if (!view) return false;
    const last = ring.last.get(view, 0);
    const next = (last + 1) % COALESCED_MAX;
    if (last >= COALESCED_MAX || next === ring.first.get(view, 0)) return false;
    const at = KvmCoalescedMmioRing.bytes + last * KvmCoalescedMmio.bytes;
    const data = new Uint8Array(8);
    new DataView(data.buffer).setBigUint64(0, value, true);
    KvmCoalescedMmio.store(view, at, { phys_addr: BigInt(address), len: bytes, pio, data });
    ring.last.set(view, 0, next); // what it counts is in place
    return true;
  }
}

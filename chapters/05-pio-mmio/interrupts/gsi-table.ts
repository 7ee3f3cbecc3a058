// # The numbers that are left
//
// The kernel's table of interrupt lines belongs to the VMM, is replaced as a whole, and has far more numbers than a PC has lines. The others are for
// messages: a number whose entry is an address and a value can be tied to a counter, and whoever adds to the counter has sent the message. So two
// parties want to write one table. The controllers have the entries of the lines, devices those of their messages, and this is the one place that puts
// the two together.

import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { IRQ_ROUTING } from '../../02-kvm-objects/abi/irqchip.ts';
import type { Vm } from '../../02-kvm-objects/kvm.ts';
import { GSIS } from './controller.ts';
import { type Route, routingTable } from './routing-table.ts';

/** What a function with messages writes, and where. */
export interface Message {
  readonly address: number;
  readonly data: number;
}

/** The routing table of one VM. */
export class GsiTable {
  #vm: Vm | null = null;
  #lines: readonly Route[] = [];
  readonly #messages = new Map<number, Message>();

  prepare(vm: Vm): void {
    this.#vm = vm;
  }

  /** Replaces the entries of the lines. @throws Errno */
  setLines(routes: readonly Route[]): void {
    this.#lines = routes;
    this.#vm?.ioctl('KVM_SET_GSI_ROUTING', this.#encoded);
  }

  /** Whether messages can have numbers, and numbers counters. */
  get hasIrqfd(): boolean {
    const has = (capability: number): boolean => (this.#vm?.checkExtension(capability) ?? 0) > 0;
    return has(CAP.KVM_CAP_IRQFD) && has(CAP.KVM_CAP_IRQ_ROUTING);
  }

  /** Gives a message a number of its own; null when the kernel has none left, or does not take the message. */
  add(message: Message): number | null {
    let gsi = GSIS;
    while (this.#messages.has(gsi)) gsi++;
    this.#messages.set(gsi, message);
    if (this.#commit()) return gsi;
    this.#messages.delete(gsi);
    return null;
  }

  /** Puts another message behind a number. When that is refused, the old one stays. */
  change(gsi: number, message: Message): boolean {
    const old = this.#messages.get(gsi);
    if (!old) return false;
    this.#messages.set(gsi, message);
    if (this.#commit()) return true;
    this.#messages.set(gsi, old);
    return false;
  }

  /** The number is free again. */
  remove(gsi: number): void {
    if (this.#messages.delete(gsi)) this.#commit();
  }

  #commit(): boolean {
    return (this.#vm?.tryIoctl('KVM_SET_GSI_ROUTING', this.#encoded) ?? -1) >= 0;
  }

  get #encoded(): Uint8Array {
    const type = IRQ_ROUTING.KVM_IRQ_ROUTING_MSI;
    const messages = [...this.#messages].map(([gsi, { address, data }]): Route => ({ gsi, type, address_lo: address, address_hi: 0, data }));
    return routingTable([...this.#lines, ...messages]);
  }
}

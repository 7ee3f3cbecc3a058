// # Between the APICs
//
// A message names its receivers in one of several ways. A *physical* destination is an APIC ID. A *logical* one is a set: each local APIC has been
// given a logical ID by software, and compares it with the set, by a model that software chose too. Nobody keeps a list of who is in which set; on
// hardware every APIC looks at every message. So does this bus, and it is why the ICR of an idle machine costs the same as a busy one's.

import type { ApicMessage, ApicMessageTarget } from './apic-message.ts';
import { DELIVERY, SHORTHAND } from './apic-message.ts';

/** What the bus needs of a local APIC. */
export interface ApicReceiver {
  readonly id: number;
  /** Globally enabled: an APIC that is switched off in IA32_APIC_BASE sees no message. */
  readonly enabled: boolean;
  /** Software has enabled it, too: only such a one takes part in lowest-priority arbitration. */
  readonly softwareEnabled: boolean;
  /** Whether a destination names it. `ipi`: the message comes from a processor. */
  matches(destination: number, logical: boolean, ipi: boolean): boolean;
  /** A DELIVERY. Whether it was taken: 1 or 0. */
  deliver(mode: number, vector: number, level: boolean, levelTriggered: boolean): number;
}

/** What the bus needs of an I/O APIC. */
interface EoiListener {
  eoi(vector: number): void;
}

export class ApicBus implements ApicMessageTarget {
  readonly #receivers: ApicReceiver[] = [];
  readonly #listeners: EoiListener[] = [];

  /** Receivers are asked in the order of their IDs. @throws RangeError for an ID that is taken */
  add(receiver: ApicReceiver): void {
    if (this.#receivers.some(({ id }) => id === receiver.id)) throw new RangeError(`two local APICs with ID ${receiver.id}`);
    this.#receivers.push(receiver);
    this.#receivers.sort((a, b) => a.id - b.id);
  }

  remove(receiver: ApicReceiver): void {
    const at = this.#receivers.indexOf(receiver);
    if (at >= 0) this.#receivers.splice(at, 1);
  }

  /** An I/O APIC, or whoever wants to hear of level-triggered EOIs. */
  addListener(listener: EoiListener): void {
    this.#listeners.push(listener);
  }

  // ## Lowest priority
  //
  // The architecture leaves to the chip set which member of a set gets a *lowest priority* interrupt. Rotating would be fair; KVM takes the vector
  // modulo the number of members, which needs no memory, and keeps one device's interrupts on one processor. Receivers that software has not enabled do
  // not take part.

  // @clause lapic.destination
  // @clause lapic.lowest-priority
  /** Sends a message; `source` is the sender of an interprocessor interrupt. The number of takers; 0 also when nobody was addressed. */
  deliver(message: ApicMessage, source: ApicReceiver | null = null): number {
    const addressed = this.#receivers.filter((receiver) => receiver.enabled && this.#addresses(message, receiver, source));
    const { mode, vector, level, levelTriggered } = message;
    if (mode === DELIVERY.LOWEST_PRIORITY || message.redirectionHint) {
      const candidates = addressed.filter(({ softwareEnabled }) => softwareEnabled);
      if (candidates.length === 0) return 0;
      return (candidates[vector % candidates.length] as ApicReceiver).deliver(mode, vector, level, levelTriggered);
    }
    let taken = 0;
    for (const receiver of addressed) taken += receiver.deliver(mode, vector, level, levelTriggered);
    return taken;
  }

  #addresses({ shorthand = SHORTHAND.NONE, destination, logical }: ApicMessage, receiver: ApicReceiver, source: ApicReceiver | null): boolean {
    switch (shorthand) {
      case SHORTHAND.SELF:
        return receiver === source;
      case SHORTHAND.ALL:
        return true;
      case SHORTHAND.OTHERS:
        return receiver !== source;
      default:
        return receiver.matches(destination, logical, source !== null);
    }
  }

  /** A local APIC has finished with a level-triggered vector. */
  eoi(vector: number): void {
    for (const listener of this.#listeners) listener.eoi(vector);
  }
}

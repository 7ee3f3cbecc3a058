// # Is it for me?
//
// Logical destinations come in three models. *Flat*: eight bits, one for each of eight processors. *Cluster*: four bits of cluster, four of member.
// In x2APIC mode there is no choice and no register to get wrong: 16 bits of cluster, 16 of member, both derived from the ID.
//
// A message from a device has an 8-bit destination even when the receiver is in x2APIC mode, and there 0xff must still mean everybody; from a
// processor in x2APIC mode it means processor 255.

import { BROADCAST } from './apic-message.ts';
import { DFR } from './lapic-registers.ts';

/** What an APIC knows of itself. */
interface Names {
  readonly x2apicMode: boolean;
  /** The 32-bit ID, which does not change. */
  readonly id: number;
  /** The registers ID, LDR and DFR. */
  readonly idRegister: number;
  readonly ldr: number;
  readonly dfr: number;
}

// @clause lapic.destination
/** Does `destination` name the APIC that is called so? `ipi`: another processor says it, not a device. */
export function isMeant({ x2apicMode, id, idRegister, ldr, dfr }: Names, destination: number, logical: boolean, ipi: boolean): boolean {
  if (x2apicMode) {
    if (destination === BROADCAST.X2APIC || (!ipi && destination === BROADCAST.XAPIC)) return true;
    if (!logical) return destination === id;
    return ldr >>> 16 === destination >>> 16 && (ldr & destination & 0xffff) !== 0;
  }
  if (destination === BROADCAST.XAPIC) return true;
  if (!logical) return destination > 0xff ? destination === id : destination === idRegister >>> 24;
  if (destination > 0xff) return false;
  const names = ldr >>> 24;
  switch (dfr >>> 28) {
    case DFR.FLAT:
      return (names & destination) !== 0;
    case DFR.CLUSTER:
      return names >> 4 === destination >> 4 && (names & destination & 0xf) !== 0;
    default:
      return false;
  }
}

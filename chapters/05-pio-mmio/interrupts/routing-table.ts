// # The table, as bytes
//
// A header that says how many, and then the entries.

import { KvmIrqRouting, KvmIrqRoutingEntry } from '../../02-kvm-objects/abi/irqchip.ts';

/** One entry of a GSI routing table. */
export type Route = Parameters<typeof KvmIrqRoutingEntry.encode>[0];

/** The argument of KVM_SET_GSI_ROUTING. */
export function routingTable(routes: readonly Route[]): Uint8Array {
  const table = new Uint8Array(KvmIrqRouting.bytes + routes.length * KvmIrqRoutingEntry.bytes);
  table.set(KvmIrqRouting.encode({ nr: routes.length }));
  for (const [index, route] of routes.entries()) table.set(KvmIrqRoutingEntry.encode(route), KvmIrqRouting.bytes + index * KvmIrqRoutingEntry.bytes);
  return table;
}

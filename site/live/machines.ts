// # The machines of a payload
//
// A payload that drives a virtio device is run by the suite on a machine for each transport and ring format that its case names. The page offers the same
// machines, from the same cases, so that a run here has its counterpart there.

import type { WireDevice } from '../../spec-tests/device-script/wire.ts';
import type { Instance } from '../../spec-tests/instances.ts';

/** What a machine has besides what every machine has. */
export type Devices = readonly WireDevice[];

/** The devices of each machine, no two of one transport and ring. Empty for a payload that needs none. */
export function machinesOf(cases: Iterable<Instance>, payload: string): Devices[] {
  const found = new Map<string, Devices>();
  for (const { guest, devices } of cases) {
    const first = devices?.[0];
    if (guest?.payload !== payload || !devices || !first) continue;
    const key = `${first.transport}.${first.ring}`;
    if (!found.has(key)) found.set(key, devices);
  }
  return [...found.values()];
}

/** The machine with this transport and ring; without the ring, one with the transport; without either, the first. */
export function pickMachine(machines: readonly Devices[], transport: string | null, ring: string | null): Devices {
  const reached = machines.filter(([first]) => first?.transport === transport);
  const some = reached.length > 0 ? reached : machines;
  return some.find(([first]) => first?.ring === ring) ?? some[0] ?? [];
}

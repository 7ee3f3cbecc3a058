// # What this QEMU has
//
// A property of a device came in some version, and distributions build some parts and leave others out. QEMU itself knows: started with no machine
// at all it answers questions about every type. One short-lived process is asked everything, once.

import type { Duplex } from 'node:stream';
import { killGroup, spawnGroup } from './children.ts';
import { Qmp } from './qmp.ts';

const TYPES = ['virtio-rng', 'virtio-serial', 'virtio-balloon', 'virtio-blk'].flatMap((name) => [`${name}-pci`, `${name}-device`]);
const PROBE_MS = 20_000;

export interface QemuFound {
  readonly machines: ReadonlySet<string>;
  /** The properties of a device; empty for one that this QEMU does not have. */
  properties(type: string): ReadonlySet<string>;
}

/** @throws Error when QEMU does not answer */
export async function probeQemu(program: string): Promise<QemuFound> {
  const args = ['-machine', 'none', '-nodefaults', '-display', 'none', '-chardev', 'socket,id=monitor,fd=3', '-mon', 'chardev=monitor,mode=control'];
  const child = spawnGroup(program, args, { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  child.on('error', () => {}); // its monitor closes, too
  const timer = setTimeout(() => killGroup(child), PROBE_MS);
  try {
    const qmp = new Qmp(child.stdio[3] as Duplex);
    await qmp.greeting();
    await qmp.command('qmp_capabilities');
    const machines = (await qmp.command('query-machines')) as readonly { readonly name: string; readonly alias?: string }[];
    const properties = new Map<string, ReadonlySet<string>>();
    for (const typename of TYPES) {
      try {
        const list = (await qmp.command('device-list-properties', { typename })) as readonly { readonly name: string }[];
        properties.set(typename, new Set(list.map(({ name }) => name)));
      } catch {
        properties.set(typename, new Set()); // no such device
      }
    }
    return {
      machines: new Set(machines.flatMap(({ name, alias }) => (alias === undefined ? [name] : [name, alias]))),
      properties: (type) => properties.get(type) ?? new Set(),
    };
  } finally {
    clearTimeout(timer);
    killGroup(child);
  }
}

// # A ring, where the driver said
//
// Sizes and addresses come from registers that a driver wrote, so all of them may be wrong. They are checked once, here. A ring that exists has its areas.

import type { DeviceMemory, DmaAccess } from '../memory.ts';
import type { DeviceRing, RingFeatures, RingPlace, RingPosition } from '../queue.ts';
import { type Area, type AreaSource, Areas } from './area.ts';
import type { Walk } from './chain.ts';
import { ALIGNMENT, availBytes, descBytes, MAX_INDIRECT, MAX_QUEUE_SIZE, pvirtq_event_suppress, usedBytes, WRAP } from './layout.ts';
import { PackedRing } from './packed.ts';
import { SplitRing } from './split.ts';

interface RingOptions {
  /** Go on where another device was; from the start otherwise. */
  readonly position?: RingPosition;
  /** Where areas come from, for someone who wants to see, or disturb, every access to the ring. */
  readonly areas?: AreaSource;
}

/** The device's end of a ring of either format, or what is wrong with what the driver said. */
export function makeRing(
  memory: DeviceMemory,
  place: RingPlace,
  features: RingFeatures & { readonly packed: boolean },
  { position, areas = new Areas(memory) }: RingOptions = {},
): DeviceRing | string {
  const { size } = place;
  const { packed, eventIdx, indirect } = features;
  // @clause virtio.robust.dev.size-invalid
  // @clause virtio.packed.dev.any-size
  if (!(Number.isInteger(size) && size >= 1 && size <= MAX_QUEUE_SIZE)) return `a queue size of ${size}`;
  if (!packed && (size & (size - 1)) !== 0) return `a queue size of ${size}, which is no power of two`;
  const suppress = pvirtq_event_suppress.bytes;
  const bytes = packed
    ? { desc: descBytes(size), driver: suppress, device: suppress }
    : { desc: descBytes(size), driver: availBytes(size, eventIdx), device: usedBytes(size, eventIdx) };
  const open = (area: 'desc' | 'driver' | 'device', access: DmaAccess): Area | string => {
    const address = place[area];
    const align = ALIGNMENT[packed ? 'packed' : 'split'][area];
    const where = `the ${area} area at 0x${address.toString(16)}`;
    if (address % align !== 0) return `${where} is not aligned to ${align}`;
    if (!(address >= 0 && address + bytes[area] <= Number.MAX_SAFE_INTEGER)) return `${where} ends outside the address space`;
    // @clause virtio.robust.dev.ring-not-ram
    return areas.open(address, bytes[area], access) ?? `${where} is not ${bytes[area]} bytes of RAM`;
  };
  // @clause virtio.split.dev.descriptor-table-entries-read-only
  const desc = open('desc', packed ? 'write' : 'read');
  const driver = open('driver', 'read');
  const device = open('device', 'write');
  for (const area of [desc, driver, device]) if (typeof area === 'string') return area;
  if (position) {
    const wrong = packed ? badPackedPosition(position, size) : badSplitPosition(position, size);
    if (wrong !== null) return wrong;
  }
  const walk: Walk = { memory, areas, size, most: Math.max(size, MAX_INDIRECT), indirect };
  const opened = { desc: desc as Area, driver: driver as Area, device: device as Area };
  return packed ? new PackedRing(walk, place, opened, features, position) : new SplitRing(walk, place, opened, features, position);
}

const isWord = (value: number): boolean => Number.isInteger(value) && value >= 0 && value <= 0xffff;

function badSplitPosition({ avail, used }: RingPosition, size: number): string | null {
  if (!isWord(avail) || !isWord(used)) return `a position of ${avail} and ${used}`;
  return ((avail - used) & 0xffff) > size ? `a position of ${avail}, more than ${size} ahead of ${used}` : null;
}

function badPackedPosition({ avail, used }: RingPosition, size: number): string | null {
  const isIn = (value: number): boolean => isWord(value) && (value & (WRAP - 1)) < size;
  return isIn(avail) && isIn(used) ? null : `a position of ${avail} and ${used} in a queue of ${size}`;
}

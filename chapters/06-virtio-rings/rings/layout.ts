// # What lies in the shared memory
//
// Both formats are a table of sixteen-byte descriptors and a few words beside it. They differ in who writes what. In a *split* ring every area has
// one writer: the driver's are the descriptor table and the available ring, the device's is the used ring. In a *packed* ring both write the same
// descriptors in turn, so that handing over a buffer touches one cache line and not three.

import { layout, u16le, u32le, u64le } from '../../01-hardware-background/layout.ts';
import type { RingPlace } from '../queue.ts';

// ## Split
//
// ::layout virtq_desc

/** A buffer, or a table of them (virtio, "The Virtqueue Descriptor Table"). */
export const virtq_desc = layout('virtq_desc', {
  addr: u64le(0),
  len: u32le(8),
  flags: u16le(12),
  next: u16le(14), // index of the chain's next descriptor, if flags has NEXT
});

/** `flags` of a descriptor, in both formats. */
export const VIRTQ_DESC_F = {
  NEXT: 1, //      the chain goes on
  WRITE: 2, //     the device writes; otherwise it reads
  INDIRECT: 4, //  the buffer is a table of descriptors
} as const;

/** What the two rings begin with; elements follow, then one more word, the other side's event index. */
export const virtq_avail = layout('virtq_avail', { flags: u16le(0), idx: u16le(2) });
export const virtq_used = layout('virtq_used', { flags: u16le(0), idx: u16le(2) });

/** One element of the available ring: the head of a chain. */
export const virtq_avail_elem = layout('virtq_avail_elem', { id: u16le(0) });

// ::layout virtq_used_elem

/** One element of the used ring: which chain came back, and how much of its writable part was written (virtio, "The Virtqueue Used Ring"). */
export const virtq_used_elem = layout('virtq_used_elem', {
  id: u32le(0), //  head of the chain, widened
  len: u32le(4), // bytes
});

/** `avail.flags`: the driver does not want to hear of used buffers. Without EVENT_IDX only. */
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
/** `used.flags`: the device does not want to hear of available buffers. Without EVENT_IDX only. */
export const VIRTQ_USED_F_NO_NOTIFY = 1;

export const descBytes = (size: number): number => virtq_desc.bytes * size;
/** Where the driver keeps `used_event`, from the start of its area. */
export const usedEventAt = (size: number): number => virtq_avail.bytes + virtq_avail_elem.bytes * size;
/** Where the device keeps `avail_event`, from the start of its area. */
export const availEventAt = (size: number): number => virtq_used.bytes + virtq_used_elem.bytes * size;
/** The available ring; the event index counts only if it was negotiated, so that a ring without may end with RAM. */
export const availBytes = (size: number, eventIdx = true): number => usedEventAt(size) + (eventIdx ? 2 : 0);
export const usedBytes = (size: number, eventIdx = true): number => availEventAt(size) + (eventIdx ? 2 : 0);

// ## Packed
//
// The address stays where it was. The last four bytes change: there is no `next`, since a list takes neighbours, and what was implied by the
// descriptor's index is now a word of its own, the buffer id.
//
// ::layout pvirtq_desc

/** A buffer on its way to the device or back (virtio, "The Virtqueue Descriptor Table" of packed virtqueues). */
export const pvirtq_desc = layout('pvirtq_desc', {
  addr: u64le(0),
  len: u32le(8),
  id: u16le(12),
  flags: u16le(14),
});

/** Whose a packed descriptor is: two more bits of `flags`, compared with the wrap counters. */
export const PACKED_DESC_F = { AVAIL: 1 << 7, USED: 1 << 15 } as const;

/** What one side wants to be told, written by that side (virtio, "Event Suppression Structure Format"). */
export const pvirtq_event_suppress = layout('pvirtq_event_suppress', {
  off_wrap: u16le(0), // bits 0-14: descriptor; bit 15: wrap counter
  flags: u16le(2), //    one of RING_EVENT_FLAGS
});

export const RING_EVENT_FLAGS = { ENABLE: 0, DISABLE: 1, DESC: 2 } as const;

/** Bit 15 of a position in a packed ring: the wrap counter. */
export const WRAP = 1 << 15;

// ## Limits

/** The longest queue, of either format. */
export const MAX_QUEUE_SIZE = 1 << 15;
/**
 * The longest chain that is taken out of an indirect table. The specification allows a driver no more than the queue is long, and Linux's takes no notice
 * once it uses tables; this is
 * where QEMU stops.
 */
export const MAX_INDIRECT = 1024;
/** The most bytes that one chain may have (virtio, "The Virtqueue Descriptor Table"). */
export const MAX_CHAIN_BYTES = 2 ** 32;

/** What each area's address has to be a multiple of. */
export const ALIGNMENT = {
  split: { desc: 16, driver: 2, device: 4 },
  packed: { desc: 16, driver: 4, device: 4 },
} as const;

// ## One block
//
// Before the standard a driver told the device one number, the page frame where everything starts. The rest follows from the size of the queue, which the device
// alone decides, and from an alignment that puts the used ring on a page of its own.

// @clause virtio.legacy.dev.pfn-layout
/**
 * Where a legacy driver's ring is (virtio, "Legacy Interfaces: A Note on Virtqueue Layout").
 * @param address of the whole block: the page frame number times the bytes of a page
 * @param align of the used ring. PCI has 4096 for both; on MMIO the driver writes them.
 */
export function legacyPlace(size: number, address: number, align: number): RingPlace {
  const driver = address + descBytes(size);
  return { size, desc: address, driver, device: Math.ceil((driver + availBytes(size)) / align) * align };
}

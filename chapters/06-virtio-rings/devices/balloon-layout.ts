// # What a balloon's driver and device agree on
//
// ::layout VirtioBalloonConfig -- the configuration space of a balloon
//
// ::layout VirtioBalloonStat -- one statistic: an array of these comes in the statistics queue
//
// Everything here is little-endian, also for drivers from before the standard: the balloon is older than the rule that would have made it otherwise.

import { layout, u16le, u32le, u64le } from '../../01-hardware-background/layout.ts';

/** Features of a balloon, by the specification's names without VIRTIO_BALLOON_F_; values are bit numbers. */
// biome-ignore format: table
export const BALLOON_F = {
  MUST_TELL_HOST: 0, STATS_VQ: 1, DEFLATE_ON_OOM: 2, FREE_PAGE_HINT: 3, PAGE_POISON: 4, PAGE_REPORTING: 5,
} as const;

/** What one page number counts, whatever the guest's own pages are. */
export const BALLOON_PAGE_BYTES = 4096;

/** struct virtio_balloon_config (virtio, "Traditional Memory Balloon Device", "Device configuration layout"). */
export const VirtioBalloonConfig = layout('virtio_balloon_config', {
  num_pages: u32le(0), // how many the host wants
  actual: u32le(4), // how many it has; the driver's to write
  free_page_hint_cmd_id: u32le(8), // with FREE_PAGE_HINT
  poison_val: u32le(12), // with PAGE_POISON; the driver's to write
});

/** Values of `free_page_hint_cmd_id` that are no command. */
export const CMD_ID = { STOP: 0, DONE: 1 } as const;

/** The first command; QEMU begins here too. */
export const FIRST_CMD_ID = 0x8000_0000;

/** struct virtio_balloon_stat (virtio, "Memory Statistics"): packed, so the value is not where a compiler would put it. */
export const VirtioBalloonStat = layout('virtio_balloon_stat', { tag: u16le(0), val: u64le(2) });

/** Tags of statistics, by the specification's names without VIRTIO_BALLOON_S_. */
// biome-ignore format: table
export const BALLOON_S = {
  SWAP_IN: 0, SWAP_OUT: 1,          // bytes
  MAJFLT: 2, MINFLT: 3,             // faults
  MEMFREE: 4, MEMTOT: 5, AVAIL: 6,  // bytes
  CACHES: 7,                        // bytes
  HTLB_PGALLOC: 8, HTLB_PGFAIL: 9,  // allocations of huge pages
} as const;

export type StatName = keyof typeof BALLOON_S;

const statNames = new Map(Object.entries(BALLOON_S).map(([name, tag]) => [tag as number, name as StatName]));

/** The name of a tag; undefined for one that this device does not know. */
export const statName = (tag: number): StatName | undefined => statNames.get(tag);

// ## Which queue is which
//
// The specification numbers five queues and says of three that they exist only with their feature. A queue that does not exist leaves, by that
// reading, a gap: without FREE_PAGE_HINT there is no queue 3, and reports are in queue 4. QEMU's `hw/virtio/virtio-balloon.c` adds queues one after
// the other, so without hints its reports are in queue 3. Linux' `find_vqs` leaves no gaps either, and the two have agreed for years with each other
// and against the text. Other drivers follow the text, and so do devices; each finds somebody with whom it does not work.
//
// The difference shows only in which queues the driver *enables*: as many as it has features for, and the two readings name the same set exactly when
// they agree about every queue in it. So a device can offer a queue under every number that either reading could want, look which ones have been
// enabled, and know which reading its driver has.

/** What a queue is for. */
export type BalloonRole = 'inflateq' | 'deflateq' | 'statsq' | 'free_page_vq' | 'reporting_vq';

/** Role, size of the queue (QEMU's), and the feature that it needs, by the specification's numbers. */
const BALLOON_QUEUES: readonly { readonly role: BalloonRole; readonly size: number; readonly feature: number | null }[] = [
  { role: 'inflateq', size: 128, feature: null },
  { role: 'deflateq', size: 128, feature: null },
  { role: 'statsq', size: 128, feature: BALLOON_F.STATS_VQ },
  { role: 'free_page_vq', size: 1024, feature: BALLOON_F.FREE_PAGE_HINT },
  { role: 'reporting_vq', size: 32, feature: BALLOON_F.PAGE_REPORTING },
];

/** How queues are numbered when some do not exist: with gaps, without, or as the driver does it. */
export type QueueNumbering = 'specification' | 'dense' | 'either';

/** The roles in the order of their numbers; null is a gap. */
export function queueRoles(numbering: 'specification' | 'dense', exists: (feature: number) => boolean): (BalloonRole | null)[] {
  const roles = BALLOON_QUEUES.map(({ role, feature }) => (feature === null || exists(feature) ? role : null));
  return numbering === 'dense' ? roles.filter((role) => role !== null) : roles.slice(0, roles.findLastIndex((role) => role !== null) + 1);
}

/** How long each queue may be, of a device that offers these features. */
export function queueSizes(numbering: QueueNumbering, exists: (feature: number) => boolean): number[] {
  const size = (role: BalloonRole | null | undefined): number => BALLOON_QUEUES.find((queue) => queue.role === role)?.size ?? 0;
  const gaps = queueRoles('specification', exists);
  const dense = queueRoles('dense', exists);
  if (numbering !== 'either') return (numbering === 'dense' ? dense : gaps).map(size);
  return gaps.map((role, index) => size(role) || size(dense[index]));
}

/** Which queue is which for a driver that has taken these features and enabled these queues. */
export function rolesOf(numbering: QueueNumbering, exists: (feature: number) => boolean, enabled: readonly number[]): (BalloonRole | null)[] {
  if (numbering !== 'either') return queueRoles(numbering, exists);
  const gaps = queueRoles('specification', exists);
  return enabled.every((index) => gaps[index] != null) ? gaps : queueRoles('dense', exists);
}
